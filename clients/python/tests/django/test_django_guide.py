"""The Python of docs/guides/django.md runs."""

from __future__ import annotations

import io
import unittest
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("django")
import django_project  # noqa: F401 # pyright: ignore[reportUnusedImport], before the settings are used
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import Client as Browser
from django.test.utils import override_settings
from django.urls import path
from documents import blocks, run

from sessiond.testing import FakeClient

PROGRAM, LOGINS, MORE, TESTS = blocks("docs/guides/django.md")


def views_at(**views: Callable[[HttpRequest], HttpResponse | None]) -> Any:
    """A module of URLs, one for each view. Where the guide is silent about the answer, it is empty."""

    def answering(view: Callable[[HttpRequest], HttpResponse | None]) -> Callable[[HttpRequest], HttpResponse]:
        return lambda request: view(request) or HttpResponse()

    urls: Any = ModuleType("urls_of_the_guide")
    urls.urlpatterns = [path(name, answering(view)) for name, view in views.items()]
    return urls


def program() -> tuple[dict[str, Any], dict[str, Any]]:
    """Its settings, and its views."""
    names = run(PROGRAM, {})
    settings = {name: value for name, value in names.items() if name.isupper()}
    assert settings["SESSION_ENGINE"] == "sessiond.django" and settings["SESSIOND"] == "127.0.0.1:50051"
    return settings, names


def test_the_guide() -> None:
    if "auth_user" not in connection.introspection.table_names():
        call_command("migrate", verbosity=0)
    user, _ = get_user_model().objects.get_or_create(username="cleo")
    settings, views = program()
    views["user"] = user
    run(MORE, run(LOGINS, views))
    names = ("home", "add", "devices", "log_in", "change_password")
    fake = FakeClient()
    settings |= {"SESSIOND": {"client": fake}, "ROOT_URLCONF": views_at(**{name: views[name] for name in names})}
    with override_settings(**settings):
        browser, other = Browser(), Browser()
        assert [browser.get("/home").json() for _ in range(2)] == [{"visits": 1}, {"visits": 2}]
        assert [browser.post("/add", {"item": item}).json() for item in "ab"] == [{"items": 1}, {"items": 2}]
        answer = browser.post("/log_in")
        assert "Max-Age" in answer.cookies["session"].OutputString(), "it was made persistent"
        other.post("/log_in")
        assert browser.get("/devices").json() == {"devices": ["", ""]}
        browser.post("/change_password")
        assert browser.get("/devices").json() == {"devices": [""]}
    session, = fake.sessions()
    assert session.principal == str(user.pk) and session.data["cart"] == ["a", "b"]


def test_the_tests_of_the_guide() -> None:
    settings, views = program()
    names = run(TESTS, {})

    base: Any = names["ShopTests"]

    class ShopTests(base):  # type: ignore[misc]
        def test_home(self) -> None:
            self.assertEqual(self.client.get("/home").json(), {"visits": 1})
            self.assertEqual(self.client.get("/home").json(), {"visits": 2})

    del settings["SESSIOND"]  # the guide's tests set it
    with override_settings(**settings, ROOT_URLCONF=views_at(home=views["home"])):
        suite = unittest.TestSuite([ShopTests("test_home")])  # which sets the class up
        result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
    assert result.wasSuccessful() and result.testsRun == 1, result.failures + result.errors
    session, = names["fake"].sessions()
    assert session.data == {"visits": 2}
