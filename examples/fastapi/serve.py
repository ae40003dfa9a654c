"""Serves the shop with uvicorn, on PORT (0: a free one)."""

import os

import uvicorn

from app import app


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"listening on http://127.0.0.1:{port}", flush=True)


Server(uvicorn.Config(app, port=int(os.environ.get("PORT", "8000")), log_level="warning")).run()
