"""Serves the shop with uvicorn, on PORT (0: a free one)."""

import os
import socket

import uvicorn

from app import app

listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "8000"))), backlog=1024)
print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
