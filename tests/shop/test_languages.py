"""One login over five languages: shops in Node, Python, Go, Java and Rust behind one daemon, and browsers that go from
one to the other."""

import pytest

from conftest import run_of
from shops import LANGUAGES
from stage.browser import together
from stage.scene import Scene


@pytest.fixture(scope="module")
def languages():
    scene = Scene("languages", *map(run_of, LANGUAGES))
    yield scene
    scene.close()


def test_one_login(languages):
    languages.recover()
    languages.perform(one_login)


async def one_login(scene):
    browser, phone = scene.browser(), scene.browser()
    express = scene.sites[0]
    # A cart of a stranger, in one language, and a login in another one.
    (await browser.add("tea", site=scene.sites[1])).answers({"items": 1})
    before = browser.cookie
    (await browser.login("ann", site=express)).answers({"user": "ann"}).sets_a_cookie("a login gives a new id")
    assert browser.cookie != before, "expected the login to give another id"
    (await phone.login("ann", site=scene.sites[-1])).answers({"user": "ann"})
    for site in scene.sites:
        (await browser.session(site=site)).answers({"user": "ann", "visits": 0, "cart": ["tea"], "live": True})

    # Parallel changes from all of them: none is lost.
    rounds = 6
    await together(
        *(browser.visit(site=site) for site in scene.sites for _ in range(rounds)),
        *(browser.add(f"{name} {number}", site=site) for name, site in zip(LANGUAGES, scene.sites) for number in range(rounds)),
        browser.theme("dark", site=scene.sites[2]),
    )
    everything = sorted(["tea", *(f"{name} {number}" for name in LANGUAGES for number in range(rounds))])
    for site in scene.sites:
        found = (await browser.session(site=site)).is_ok().json
        assert found["visits"] == rounds * len(LANGUAGES), f"expected no visit to be lost, found {found['visits']}"
        assert sorted(found["cart"]) == everything, f"expected no item to be lost, found {found['cart']}"
        assert found["user"] == "ann", f"expected ann everywhere, found {found['user']}"

    # What one leaves, another one takes, once.
    (await browser.leave_flash("from Go", site=scene.sites[2])).answers({})
    (await browser.take_flash(site=scene.sites[3])).answers({"flash": "from Go"})
    (await browser.take_flash(site=scene.sites[4])).answers({"flash": None})

    # An id from before the login is nobody's, in all of them.
    late = scene.browser()
    late.cookie = before
    for site in scene.sites:
        (await late.session(site=site)).answers({"user": None, "visits": 0, "cart": [], "live": False})
        (await late.add("late", site=site)).conflicts("the id is from before a login")

    # One list of devices, and one logout for all.
    for site in scene.sites:
        devices = (await browser.devices(site=site)).is_ok().json["devices"]
        assert {device["id"] for device in devices} == {browser.public_id, phone.public_id}, f"expected both devices, found {devices}"
    kept = browser.twin()
    (await browser.logout_everywhere(site=scene.sites[3])).answers({"ended": 2}).deletes_the_cookie("the session has ended")
    for site in scene.sites:
        for gone in (kept, phone):
            (await gone.session(site=site)).answers({"user": None, "visits": 0, "cart": [], "live": False})
