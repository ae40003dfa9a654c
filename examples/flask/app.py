"""The shop in Flask. sessiond owns the sessions."""

import os
import time
from typing import Any

from flask import Flask, request, session

from sessiond import SessionGoneError, SupersededError
from sessiond.flask import Sessiond, current_session

app = Flask(__name__)
Sessiond(app, os.environ.get("SESSIOND", "127.0.0.1:50051"))

ENDED = (SessionGoneError, SupersededError)  # meanwhile, by a logout or a login in another request


@app.after_request
def no_store(response):
    response.headers["Cache-Control"] = "no-store"
    return response


@app.get("/session")
def show():
    return {
        "user": current_session.principal,
        "visits": session.get("visits", 0),
        "cart": session.get("cart", []),
        "live": current_session.live,
    }


@app.post("/visit")
def visit():
    return {"visits": current_session.update(count_visit)["visits"]}


@app.post("/cart")
def add_to_cart():
    item = request.form["item"]
    data = current_session.update(lambda data: data.setdefault("cart", []).append(item))
    return {"items": len(data["cart"])}


@app.post("/flash")
def set_flash():
    session["flash"] = request.form["text"]
    return {}


@app.get("/flash")
def take_flash():
    taken = [None]
    if "flash" in session:
        try:
            # The last run of the function is the one that counts.
            current_session.update(lambda data: taken.append(data.pop("flash", None)))
        except ENDED:
            taken = [None]
    return {"flash": taken[-1]}


@app.post("/login")
def login():
    # A real application checks a password here.
    user = request.form.get("user", "")
    if not 1 <= len(user.encode()) <= 256:
        return {"error": "expected a user of 1 to 256 bytes"}, 400
    current_session.login(user)
    return {"user": user}


@app.post("/theme")
def set_theme():
    session["theme"] = request.form["theme"]
    return {"theme": session["theme"]}


@app.post("/logout")
def logout():
    current_session.logout()
    return {}


@app.post("/logout-others")
def logout_others():
    return {"ended": current_session.logout_others()}


@app.post("/logout-everywhere")
def logout_everywhere():
    return {"ended": current_session.logout_everywhere()}


@app.get("/slow")
def slow():
    if not current_session.live:
        return {"written": False}
    time.sleep(max(0, request.args.get("ms", 300, int)) / 1000)
    try:
        current_session.update(count_visit)
    except ENDED:
        return {"written": False}
    return {"written": True}


@app.get("/devices")
def devices():
    if current_session.principal is None:
        return {}, 401
    return {"devices": [{"id": device.id, "current": device.current} for device in current_session.devices()]}


def count_visit(data: dict[str, Any]) -> None:
    data["visits"] = data.get("visits", 0) + 1
