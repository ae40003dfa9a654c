"""Django's own session tests, on a daemon. Run by scripts/peer-tests."""

import os
import sys
import unittest

from conftest import Daemon
from peer_daemon import running

# Engine of the daemon for each test that asks Django for other cookie attributes.
ENGINES = {
    "test_secure_session_cookie": "secure",
    "test_samesite_session_cookie": "strict",
    "test_no_httponly_session_cookie": "readable",
}

DIFFERENT = {
    "test_session_delete_on_end": "the text of the deletion cookie is the daemon's, and a cookie that is no session's "
    "('abc') is left alone",
    "test_session_delete_on_end_with_custom_domain_and_path": "the same",
    "test_save_every_request_with_non_empty_session_renews_session_cookie": "a cookie is sent only if the browser has "
    "something to learn",
    "test_empty_session_saved": "it looks into Django's own table, and wants the cookie again that the browser has",
}
"""The tests of SessionMiddlewareTests that the design makes meaningless. Each of them must fail."""

SETTINGS = {
    "default": {},
    "secure": {"secure": "true"},
    "strict": {"same_site": "strict"},
    "readable": {"http_only": "false"},
}


def engines():
    for name, cookie in SETTINGS.items():
        yield f"engine.{name}.duration=14days"  # SESSION_COOKIE_AGE
        yield f"engine.{name}.cookie.secrets=a-secret-for-tests-only-of-40-characters"
        for key, value in {"name": "sessionid", "secure": "false", **cookie}.items():
            yield f"engine.{name}.cookie.{key}={value}"


def main(sources: str) -> int:
    sys.path.insert(0, os.path.join(sources, "tests"))
    with running(*engines(), dev=False) as daemon:
        return run(daemon)


def run(daemon: Daemon) -> int:
    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY="for tests",
        INSTALLED_APPS=["django.contrib.sessions", "sessions_tests"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        SESSION_ENGINE="sessiond.django",
        SESSIOND=daemon.address,
        USE_TZ=False,
    )
    django.setup()
    from django.test import SimpleTestCase
    from django.test.utils import override_settings, setup_test_environment
    from sessions_tests import tests as theirs

    from sessiond.django import SessionMiddleware, SessionStore

    class Middleware(SessionMiddleware):
        """The tests set request.COOKIES; a browser sets the header."""

        def process_request(self, request):
            header = "; ".join(f"{name}={value}" for name, value in request.COOKIES.items())
            request.META["HTTP_COOKIE"] = header
            super().process_request(request)

    theirs.SessionMiddleware = Middleware
    theirs.DatabaseSession = SessionStore

    class StoreTests(theirs.SessionTestsMixin, SimpleTestCase):
        backend = SessionStore

    @override_settings(USE_TZ=True)
    class StoreWithTimeZoneTests(StoreTests):
        pass

    class MiddlewareTests(SimpleTestCase):
        """Theirs is a TestCase, with a database."""

        def setUp(self):
            engine = ENGINES.get(self._testMethodName, "default")
            changed = override_settings(SESSIOND={"address": daemon.address, "engine": engine})
            changed.enable()
            self.addCleanup(changed.disable)

    for name, value in vars(theirs.SessionMiddlewareTests).items():
        if name.startswith(("test", "request_factory", "get_response")):
            setattr(MiddlewareTests, name, unittest.expectedFailure(value) if name in DIFFERENT else value)

    setup_test_environment()
    suite = unittest.TestSuite()
    for case in (StoreTests, StoreWithTimeZoneTests, MiddlewareTests):
        suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(case))
    result = unittest.TextTestRunner(verbosity=1).run(suite)
    for name, reason in DIFFERENT.items():
        print(f"not applicable: {name}: {reason}")
    if result.testsRun != 2 * 65 + 12:
        print(f"expected 65 tests of the store, twice, and 12 of the middleware; found {result.testsRun}")
        return 1
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
