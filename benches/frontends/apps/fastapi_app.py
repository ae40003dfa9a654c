"""FastAPI: bare, with starsessions on Redis, and with sessiond. The handlers are the same."""

import json
import os
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request

DATA = json.loads((Path(__file__).parent / "data.json").read_text())
app = FastAPI()


class Bare:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            scope["session"] = dict(DATA)
        await self.app(scope, receive, send)


match os.environ["VARIANT"]:
    case "bare":
        app.add_middleware(Bare)
    case "today":
        from starsessions import SessionAutoloadMiddleware, SessionMiddleware
        from starsessions.stores.redis import RedisStore

        app.add_middleware(SessionAutoloadMiddleware)
        store = RedisStore(os.environ["REDIS"])
        app.add_middleware(SessionMiddleware, store=store, lifetime=1800, cookie_https_only=False)
    case "ours":
        from sessiond.starlette import SessionMiddleware

        app.add_middleware(SessionMiddleware, client=os.environ["SESSIOND"])


def shown(session):
    return {"user": session.get("user"), "items": len(session.get("cart", ())), "count": session.get("count", 0)}


@app.get("/")
async def show(request: Request):
    return shown(request.session)


@app.post("/change")
async def change(request: Request):
    request.session["count"] = request.session.get("count", 0) + 1
    return shown(request.session)


@app.post("/begin")
async def begin(request: Request):
    request.session.update(DATA)
    return shown(request.session)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=False, log_level="warning")
