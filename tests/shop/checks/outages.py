"""The daemon or its store is away: nobody is logged out, nothing that was answered is lost, and all
goes on by itself."""

import asyncio
import os
import time

import pytest

from stage.browser import together
from stage.redis import Redis, installed

from . import check


# How long the daemon is away at a restart, in seconds: shorter than the deadlines of client packages.
AWAY = 0.5


class Traffic:
    """Browsers that visit and read, one request after the other, until they are told to stop."""

    def __init__(self, scene, count=6):
        self.scene = scene
        self.browsers = [scene.browser() for _ in range(count)]
        self.answered = [0] * count
        self.refused = [0] * count
        self.running = False

    async def _one(self, number):
        browser, user = self.browsers[number], f"traffic {number}"
        while self.running:
            answer = await browser.visit()
            if answer.status == 503:
                answer.is_unavailable("the daemon restarts")
                self.refused[number] += 1
            else:
                answer.is_ok().sets_no_cookie("the browser has it")
                self.answered[number] += 1
                self._is_possible(number, answer.json["visits"], answer)
            answer = await browser.session()
            if answer.status == 503:
                answer.is_unavailable("the daemon restarts")
            else:
                shown = answer.is_ok().sets_no_cookie("it only reads").json
                assert shown["user"] == user and shown["live"], f"expected {user} to stay logged in: {answer}"
                self._is_possible(number, shown["visits"], answer)

    def _is_possible(self, number, visits, answer):
        low, high = self.answered[number], self.answered[number] + self.refused[number]
        # A visit that was answered with 503 may have been counted.
        assert low <= visits <= high, f"expected {low} to {high} visits, for what was answered so far: {answer}"

    async def during(self, event):
        """Lets an event happen amid the traffic, and returns how many visits were answered with 503."""
        for number, browser in enumerate(self.browsers):
            (await browser.login(f"traffic {number}")).is_ok()
        self.running = True
        tasks = [asyncio.ensure_future(self._one(number)) for number in range(len(self.browsers))]
        try:
            await asyncio.sleep(0.15)
            await event()
            await asyncio.sleep(0.3)
        finally:
            self.running = False
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        for number, browser in enumerate(self.browsers):
            answer = (await browser.session()).is_ok()
            assert answer.json["user"] == f"traffic {number}", f"expected the user to stay logged in: {answer}"
            self._is_possible(number, answer.json["visits"], answer)
        return sum(self.refused)


@check
async def a_restart_is_not_noticed(scene):
    """a restart of the daemon (SIGTERM) amid traffic: no request fails, nobody is logged out, no visit is lost"""

    async def restart():
        await asyncio.to_thread(scene.daemon.stop)
        await asyncio.sleep(AWAY)
        await asyncio.to_thread(scene.daemon.start)

    refused = await Traffic(scene).during(restart)
    assert refused == 0, f"expected requests to wait for the daemon, but {refused} were answered with 503"


@check
async def a_crash_loses_nothing(scene):
    """a crash of the daemon (SIGKILL) amid traffic: nobody is logged out, no visit that was answered is lost"""

    async def crash():
        scene.daemon.kill()
        await asyncio.sleep(AWAY)
        await asyncio.to_thread(scene.daemon.start)

    await Traffic(scene).during(crash)


async def everything(scene, ann, others, why):
    """Asks for every page at once, at each process. All of it answers 503, in time."""
    requests = []
    for site in scene.sites:
        requests += [ann.session(site=site), ann.visit(site=site), ann.add("tea", site=site), ann.theme("dark", site=site)]
        requests += [ann.take_flash(site=site), ann.leave_flash("hi", site=site), ann.devices(site=site), ann.slow(1, site=site)]
        # What may be done after all, when the daemon comes back, is asked for by others.
        logout, everywhere, login = others.pop(), others.pop(), others.pop()
        requests += [logout.logout(site=site), everywhere.logout_everywhere(site=site), login.login("mallory", site=site)]
        requests += [ann.twin().logout_others(site=site), scene.browser().visit(site=site)]
    cookie = ann.cookie
    begin = time.monotonic()
    for answer in await together(*requests):
        answer.is_unavailable(why)
    scene.note(f"503 while {why}", time.monotonic() - begin)
    assert ann.cookie == cookie, "expected the browser to keep its cookie"
    for site in scene.sites:
        # Whoever has no cookie has no session. The shop may know that by itself.
        stranger = await scene.browser().session(site=site)
        if stranger.status != 503:
            stranger.answers({"user": None, "visits": 0, "cart": [], "live": False})


async def visitors(scene, user):
    ann, *others = [scene.browser() for _ in range(1 + 3 * len(scene.sites))]
    await ann.login(user)
    await ann.visit()
    await together(*(other.login(f"{user} {number}") for number, other in enumerate(others)))
    return ann, others


@check
async def the_daemon_is_away(scene):
    """without the daemon every page answers 503 with Retry-After; when it is back, all goes on within a second"""
    ann, others = await visitors(scene, "uma")
    scene.daemon.kill()
    await everything(scene, ann, others, "the daemon is away")
    await asyncio.to_thread(scene.daemon.start)
    for answer in await scene.goes_on("after the daemon was away", lambda site: ann.session(site=site)):
        # Nothing of it was done.
        answer.answers({"user": "uma", "visits": 1, "cart": [], "live": True}).sets_no_cookie("it only reads")
    (await ann.visit()).answers({"visits": 2})


@check
async def the_daemon_is_paused(scene):
    """while the daemon does not answer (SIGSTOP) every page answers 503 in time; when it does, all goes on"""
    ann, others = await visitors(scene, "vera")
    scene.daemon.pause()
    try:
        await everything(scene, ann, others, "the daemon is paused")
    finally:
        scene.daemon.resume()
    for answer in await scene.goes_on("after the daemon was paused", lambda site: ann.session(site=site)):
        shown = answer.is_ok().json
        assert shown["user"] == "vera" and shown["live"], f"expected vera to stay logged in: {answer}"
        # What was answered with 503 may have been done.
        assert 1 <= shown["visits"] <= 1 + 2 * len(scene.sites), f"expected each visit to count at most once: {answer}"
        assert len(shown["cart"]) <= len(scene.sites), f"expected each item at most once: {answer}"
    (await ann.add("milk")).is_ok()


@check
async def a_short_pause_is_not_noticed(scene):
    """a pause of the daemon that is shorter than the deadlines costs time, and nothing else"""
    ann = scene.browser()
    await ann.login("ann")
    scene.daemon.pause()
    asyncio.get_running_loop().call_later(0.7, scene.daemon.resume)
    answers = await together(*(page for site in scene.sites for page in (ann.visit(site=site), ann.add("tea", site=site))))
    for answer in answers:
        answer.is_ok().sets_no_cookie("the browser has it")
    await ann.shows("ann", visits=len(scene.sites), cart=["tea"] * len(scene.sites))


@check
async def the_store_is_away(scene):
    """without its store the daemon's errors become 503 with Retry-After; when it is back, all goes on"""
    if not installed():
        assert os.environ.get("SESSIOND_TEST_REQUIRE_REDIS") != "1", "expected redis-server to be installed"
        pytest.skip("redis-server is not installed")
    redis = Redis(scene.home)
    redis.start()
    try:
        with scene.daemon_with(store__backend="redis", store__redis__url=redis.url):
            await scene.goes_on("after other settings", lambda site: scene.browser().visit(site=site))
            ann, others = await visitors(scene, "willa")
            redis.kill()
            await everything(scene, ann, others, "the store is away")
            await asyncio.to_thread(redis.start)
            # The daemon tries to reach Redis at least twice a second, and a client tries again after a quarter
            # of a second, as it is told. A busy machine takes longer.
            for answer in await scene.goes_on("after the store was away", lambda site: ann.session(site=site), 5):
                answer.answers({"user": "willa", "visits": 1, "cart": [], "live": True}).sets_no_cookie("it only reads")
            (await ann.visit()).answers({"visits": 2})
    finally:
        redis.kill()
    await scene.goes_on("after other settings", lambda site: scene.browser().visit(site=site))
