"""Flask: bare, with Flask-Session on Redis, and with sessiond. The handlers are the same."""

import json
import os
from pathlib import Path

from flask import Flask, session
from flask.sessions import SessionInterface, SessionMixin

DATA = json.loads((Path(__file__).parent / "data.json").read_text())
app = Flask(__name__)


class BareSession(dict, SessionMixin):
    pass


class Bare(SessionInterface):
    def open_session(self, app, request):
        return BareSession(DATA)

    def save_session(self, app, session, response):
        pass


match os.environ["VARIANT"]:
    case "bare":
        app.session_interface = Bare()
    case "today":
        from flask_session import Session
        from redis import Redis

        app.config.update(SESSION_TYPE="redis", SESSION_REDIS=Redis.from_url(os.environ["REDIS"]))
        Session(app)
    case "ours":
        from sessiond.flask import Sessiond

        Sessiond(app, os.environ["SESSIOND"])


def shown():
    return {"user": session.get("user"), "items": len(session.get("cart", ())), "count": session.get("count", 0)}


@app.get("/")
def show():
    return shown()


@app.post("/change")
def change():
    session["count"] = session.get("count", 0) + 1
    return shown()


@app.post("/begin")
def begin():
    session.update(DATA)
    return shown()
