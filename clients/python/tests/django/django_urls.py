"""The views of the tests."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import alogin, alogout, get_user_model, login, logout
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from sessiond.django import aget_session, get_session


def count(request: HttpRequest) -> HttpResponse:
    request.session["n"] = request.session.get("n", 0) + 1
    return JsonResponse({"n": request.session["n"]})


async def acount(request: HttpRequest) -> HttpResponse:
    await request.session.aset("n", await request.session.aget("n", 0) + 1)
    return JsonResponse({"n": await request.session.aget("n")})


def read(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"data": dict(request.session.items())})


def blind(request: HttpRequest) -> HttpResponse:
    return JsonResponse({})


def deep(request: HttpRequest) -> HttpResponse:
    request.session.setdefault("cart", []).append("tea")
    return JsonResponse({"cart": request.session["cart"]})


def increment(data: dict[str, Any]) -> None:
    data["n"] = data.get("n", 0) + 1


def update(request: HttpRequest) -> HttpResponse:
    request.session["mine"] = True
    session = get_session(request)
    data = session.update(increment)
    assert request.session["n"] == data["n"], "request.session is refreshed"
    return JsonResponse({"n": data["n"], "live": session.live})


async def aupdate(request: HttpRequest) -> HttpResponse:
    session = await aget_session(request)
    return JsonResponse({"n": (await session.update(increment))["n"]})


def become(request: HttpRequest) -> HttpResponse:
    get_session(request).login(request.GET["user"])
    return JsonResponse({})


def log_in(request: HttpRequest) -> HttpResponse:
    login(request, get_user_model().objects.get(username=request.GET["user"]))
    return JsonResponse({"principal": get_session(request).principal})


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return JsonResponse({})


async def alog_in(request: HttpRequest) -> HttpResponse:
    await alogin(request, get_user_model()(pk=7, username="ann", password="x"))
    return JsonResponse({})


async def alog_out(request: HttpRequest) -> HttpResponse:
    request.auser = None  # type: ignore[assignment]  # it would ask for the user in another thread, which has no table
    await alogout(request)
    return JsonResponse({})


def whoami(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"user": request.user.get_username(), "key": request.session.session_key})


def expiry(request: HttpRequest) -> HttpResponse:
    value = request.GET["value"]
    request.session.set_expiry(None if value == "none" else int(value))
    request.session["n"] = 1
    return JsonResponse({})


def clear(request: HttpRequest) -> HttpResponse:
    request.session.clear()
    return JsonResponse({})


def stream(request: HttpRequest) -> StreamingHttpResponse:
    request.session["n"] = 1
    return StreamingHttpResponse(iter([b"a", b"b"]))


def fault(request: HttpRequest) -> HttpResponse:
    get_session(request).login("ann")
    request.session["n"] = 9
    raise ZeroDivisionError


async def blocking(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"n": request.session.get("n")})


urlpatterns = [
    path(f"{view.__name__}", view)
    for view in (
        *(count, acount, read, blind, deep, update, aupdate, become, log_in, log_out, alog_in, alog_out),
        *(whoami, expiry, clear, stream, fault, blocking),
    )
]
