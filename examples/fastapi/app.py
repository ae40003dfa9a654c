"""The shop in FastAPI. sessiond owns the sessions."""

import asyncio
import os
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Request, Response
from fastapi.responses import JSONResponse

from sessiond import SessionGoneError, SupersededError
from sessiond.starlette import RequestSession, SessionMiddleware, get_session

app = FastAPI()
app.add_middleware(SessionMiddleware, client=os.environ.get("SESSIOND", "127.0.0.1:50051"))

Session = Annotated[RequestSession, Depends(get_session)]
Text = Annotated[str, Form()]
ENDED = (SessionGoneError, SupersededError)  # meanwhile, by a logout or a login in another request


def no_store(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


app.router.dependencies.append(Depends(no_store))


@app.get("/session")
async def show(request: Request, session: Session):
    data = request.session
    return {
        "user": session.principal,
        "visits": data.get("visits", 0),
        "cart": data.get("cart", []),
        "live": session.live,
    }


@app.post("/visit")
async def visit(session: Session):
    return {"visits": (await session.update(count_visit))["visits"]}


@app.post("/cart")
async def add_to_cart(session: Session, item: Text):
    data = await session.update(lambda data: data.setdefault("cart", []).append(item))
    return {"items": len(data["cart"])}


@app.post("/flash")
async def set_flash(request: Request, text: Text):
    request.session["flash"] = text
    return {}


@app.get("/flash")
async def take_flash(session: Session):
    taken = []
    if "flash" in session.data:
        try:
            # The last run of the function is the one that counts.
            await session.update(lambda data: taken.append(data.pop("flash", None)))
        except ENDED:
            taken = [None]
    return {"flash": taken[-1] if taken else None}


@app.post("/login")
async def login(session: Session, user: Annotated[str, Form()] = ""):
    # A real application checks a password here.
    if not 1 <= len(user.encode()) <= 256:
        return JSONResponse({"error": "expected a user of 1 to 256 bytes"}, 400, {"Cache-Control": "no-store"})
    await session.login(user)
    return {"user": user}


@app.post("/theme")
async def set_theme(request: Request, theme: Text):
    request.session["theme"] = theme
    return {"theme": theme}


@app.post("/logout")
async def logout(session: Session):
    await session.logout()
    return {}


@app.post("/logout-others")
async def logout_others(session: Session):
    return {"ended": await session.logout_others()}


@app.post("/logout-everywhere")
async def logout_everywhere(session: Session):
    return {"ended": await session.logout_everywhere()}


@app.get("/slow")
async def slow(session: Session, ms: int = 300):
    if not session.live:
        return {"written": False}
    await asyncio.sleep(ms / 1000)
    try:
        await session.update(count_visit)
    except ENDED:
        return {"written": False}
    return {"written": True}


@app.get("/devices")
async def devices(session: Session):
    if session.principal is None:
        return JSONResponse({}, 401, {"Cache-Control": "no-store"})
    return {"devices": [{"id": device.id, "current": device.current} for device in await session.devices()]}


def count_visit(data: dict[str, Any]) -> None:
    data["visits"] = data.get("visits", 0) + 1
