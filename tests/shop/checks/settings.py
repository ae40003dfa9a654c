"""The daemon is restarted with other settings, as at a deployment, while the shop runs on."""

import asyncio
import secrets

from stage.browser import attributes, together

from . import check


@check
async def old_cookies_after_a_new_secret(scene):
    """after a new secret old cookies still work, and are signed again, once; without the old one they are nobody's"""
    daemon = scene.daemon
    ann, bob = scene.browser(), scene.browser()
    await together(ann.login("ann"), bob.login("bob"))
    old = ann.twin()
    before = list(daemon.secrets)
    try:
        daemon.secrets.insert(0, secrets.token_urlsafe(32))
        with scene.daemon_with():
            await scene.goes_on("after a new secret", lambda site: scene.browser().visit(site=site))
            answer = (await ann.session()).answers({"user": "ann", "visits": 0, "cart": [], "live": True})
            answer.sets_a_cookie("it was signed again")
            assert ann.cookie[:40] == old.cookie[:40] != ann.cookie, "expected the same id, signed again"
            await ann.shows("ann")
            # A change learns it as well: once, although its Resolve and its Write both bring it.
            (await bob.visit()).answers({"visits": 1}).sets_a_cookie("it was signed again")
            await bob.shows("bob", visits=1)
            # The daemon starts next without the old secret.
            del daemon.secrets[1:]
        await scene.goes_on("after a new secret", lambda site: scene.browser().visit(site=site))
        await old.is_a_stranger()
        await ann.shows("ann")
        (await old.visit()).answers({"visits": 1}).sets_a_cookie("the session is new")
        assert old.public_id != ann.public_id, "expected another session"
    finally:
        daemon.secrets[:] = before
        daemon.stop()
        daemon.start()


@check
async def an_idle_session_expires(scene):
    """a session that has expired is nobody's, also in the middle of a request; a used one is prolonged"""
    with scene.daemon_with(engine__default__duration="2s", engine__default__touch_granularity="400ms"):
        await scene.goes_on("after other settings", lambda site: scene.browser().visit(site=site))
        idle, slow, used = scene.browser(), scene.browser(), scene.browser()
        await together(idle.login("ann"), slow.visit(), used.login("bob"))
        expired = idle.twin()
        waiting = asyncio.ensure_future(slow.slow(2700))
        first = used.cookie
        for _ in range(4):
            await asyncio.sleep(0.65)
            answer = (await used.session()).answers({"user": "bob", "visits": 0, "cart": [], "live": True})
            answer.sets_a_cookie("the deadline has moved")
            assert used.cookie == first, "expected the same cookie with a later end"
            assert attributes(answer.cookies[0])["max-age"] in "2 3", f"expected the new Max-Age: {answer}"
        (await waiting).answers({"written": False}).sets_no_cookie("its session has expired")
        await idle.is_a_stranger()
        (await idle.take_flash()).answers({"flash": None})
        (await idle.devices()).has_status(401)
        created = scene.daemon.created()
        (await idle.visit()).answers({"visits": 1}).sets_a_cookie("the session is new")
        assert idle.public_id != expired.public_id and scene.daemon.created() == created + 1, "expected one new session"
        await idle.shows(visits=1)


@check
async def another_daemon(scene):
    """a daemon with another cookie name and an empty store: old cookies are nobody's, new ones work; back again, the old ones do"""
    ann = scene.browser()
    await ann.login("ann")
    old = ann.cookie
    with scene.daemon_with(engine__default__cookie__name="__Host-other", store__backend="memory"):
        await scene.goes_on("after other settings", lambda site: scene.browser().visit(site=site))
        new = scene.browser()
        (await new.visit()).answers({"visits": 1}).sets_a_cookie("the session is new")
        for _ in scene.sites:
            await new.shows(visits=1)
            # The old session under the new name is signed well, but the store has no such session.
            await scene.browser(old).is_a_stranger()
        returning = scene.browser(old)
        (await returning.visit()).answers({"visits": 1}).sets_a_cookie("the session is new")
        assert returning.public_id != old[:16], "expected an id that the daemon made"
    await scene.goes_on("after other settings", lambda site: scene.browser().visit(site=site))
    await ann.shows("ann")
