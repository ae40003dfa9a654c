"""One login over five languages: shops in Node, Python, Go, Java and Rust behind one daemon, and browsers that go from
one to the other."""

import asyncio
from itertools import cycle

import pytest

from conftest import run_of, title
from shops import LANGUAGES, SHOPS
from stage.browser import together
from stage.scene import Scene

# What JSON encoders write in different ways.
TEXTS = ["tea & <cake>", "naïve ümläut €", "😀👩‍👩‍👧", "\u2028\u2029\ufeff", "\\\"'/\x7f", "a\tb\r\nc"]
# So long does a slow request take, in milliseconds.
SLOW = 1000
STORIES = []


def story(function):
    STORIES.append(function)
    return function


@pytest.fixture(scope="module")
def scene():
    scene = Scene("languages", *map(run_of, LANGUAGES))
    yield scene
    scene.close()


def turned(scene):
    """The sites, each of them once the first."""
    for number in range(len(scene.sites)):
        yield scene.sites[number:] + scene.sites[:number]


async def logged_in(scene, user, site):
    browser = scene.browser()
    (await browser.login(user, site=site)).answers({"user": user}).sets_a_cookie("the session is new")
    return browser


async def begin_slow(scene, *requests):
    """Begins requests of /slow, and waits until all of them have read their sessions."""
    read = scene.daemon.operations()["Resolve"] + len(requests)
    begun = [asyncio.ensure_future(request) for request in requests]
    while scene.daemon.operations()["Resolve"] < read and not any(request.done() for request in begun):
        await asyncio.sleep(0.005)
    return begun


async def is_a_stranger(browser, scene):
    for site in scene.sites:
        answer = await browser.session(site=site)
        answer.answers({"user": None, "visits": 0, "cart": [], "live": False}).sets_no_cookie("it only reads")


@story
async def a_browser_logs_in_once(scene):
    """a login at one shop is a login at all; what each stores the others read to the letter; a logout ends it for all"""
    for here, *others in turned(scene):
        ann = scene.browser()
        (await ann.add("before the login", site=others[0])).answers({"items": 1}).sets_a_cookie("the session is new")
        (await ann.login("ann ☃", site=here)).answers({"user": "ann ☃"}).sets_a_cookie("the id is new")
        cart = ["before the login"]
        # In each turn the texts begin at another site: in the end, each site has sent each of them.
        for visits, (site, text) in enumerate(zip(cycle((here, *others)), TEXTS), 1):
            item = f"{site.name}: {text}"
            (await ann.visit(site=site)).answers({"visits": visits}).sets_no_cookie("the browser has it")
            (await ann.add(item, site=site)).answers({"items": len(cart) + 1}).sets_no_cookie("the browser has it")
            (await ann.theme(text, site=site)).answers({"theme": text})
            (await ann.leave_flash(text, site=site)).answers({})
            cart.append(item)
            for reader in scene.sites:
                shown = (await ann.session(site=reader)).sets_no_cookie("it only reads")
                shown.answers({"user": "ann ☃", "visits": visits, "cart": cart, "live": True})
            reader = others[visits % len(others)]
            (await ann.take_flash(site=reader)).answers({"flash": text})
            (await ann.take_flash(site=here)).answers({"flash": None})
        stored = scene.daemon.record(ann)
        assert stored["principal"] == "ann ☃", f"expected the session to be ann's: {stored}"
        late = ann.twin()
        (await ann.logout(site=others[-1])).answers({}).deletes_the_cookie("the session has ended")
        await is_a_stranger(late, scene)


@story
async def changes_at_all_shops_at_once(scene):
    """parallel visits, items, themes and flashes at all shops: none is lost, none counts twice"""
    ann = await logged_in(scene, "ann", scene.sites[0])
    visits, cart = 0, []
    for number in range(6):
        text = f"round {number}"
        items = [f"{text}, {site.name}" for site in scene.sites]
        answers = await together(
            *(ann.visit(site=site) for site in scene.sites),
            *(ann.add(item, site=site) for item, site in zip(items, scene.sites)),
            *(ann.theme(text, site=site) for site in scene.sites),
            *(ann.slow(5, site=site) for site in scene.sites),
            *(ann.leave_flash(text, site=site) for site in scene.sites),
        )
        for answer in answers:
            answer.is_ok().sets_no_cookie("the browser has it")
        visits, cart = visits + 2 * len(scene.sites), cart + items
        for site in scene.sites:
            shown = (await ann.session(site=site)).is_ok().json
            assert shown["visits"] == visits, f"expected {visits} visits at {site.name}: {shown}"
            assert sorted(shown["cart"]) == sorted(cart), f"expected {cart} at {site.name}: {shown}"
        assert text in str(scene.daemon.record(ann)["data"]), f"expected the theme {text} to survive"
        flashes = await together(*(ann.take_flash(site=site) for site in scene.sites))
        found = [flash.is_ok().json["flash"] for flash in flashes]
        assert sorted(found, key=str) == sorted([text] + [None] * (len(found) - 1), key=str), f"expected one flash, once: {found}"


@story
async def a_login_at_one_shop_outdates_the_id_at_all(scene):
    """an id from before a login at one shop is nobody's at the others; a slow request there writes nothing"""
    for here, *others in turned(scene):
        ann = await logged_in(scene, "ann", others[0])
        late = ann.twin()
        slow = await begin_slow(scene, *(late.slow(SLOW, site=site) for site in others))
        (await ann.login("bob", site=here)).answers({"user": "bob"}).sets_a_cookie("the id is new")
        for answer in await together(*slow):
            answer.answers({"written": False}).sets_no_cookie("it would replace the new one")
        await is_a_stranger(late, scene)
        for site in scene.sites:
            (await late.add("tea", site=site)).conflicts("the id is from before a login")
        for site in scene.sites:
            (await ann.session(site=site)).answers({"user": "bob", "visits": 0, "cart": [], "live": True})
        (await ann.logout(site=others[-1])).answers({})


@story
async def a_logout_everywhere_at_one_shop(scene):
    """sessions that were begun at all shops are listed at all, and ended by a logout everywhere at one; no slow request undoes it"""
    for here, *others in turned(scene):
        user = f"ann of {here.name}"
        browsers = [await logged_in(scene, user, site) for site in scene.sites]
        expected = {browser.public_id for browser in browsers}
        for site in scene.sites:
            devices = (await browsers[0].devices(site=site)).is_ok().json["devices"]
            found = {device["id"]: device["current"] for device in devices}
            assert set(found) == expected and found[browsers[0].public_id], f"expected {len(expected)} sessions at {site.name}: {devices}"
        slow = await begin_slow(scene, *(browser.twin().slow(SLOW, site=site) for browser, site in zip(browsers, others)))
        late = [browser.twin() for browser in browsers]
        everywhere = await browsers[0].logout_everywhere(site=here)
        everywhere.answers({"ended": len(browsers)}).deletes_the_cookie("the session has ended")
        for answer in await together(*slow):
            answer.answers({"written": False})
        for browser in late:
            await is_a_stranger(browser, scene)
        left = [record for record in scene.daemon.sessions().values() if record["principal"] == user]
        assert not left, f"expected no session of {user} to be left: {left}"


# The name before the hyphen keeps them at one worker, with one scene.
@pytest.mark.parametrize("story", STORIES, ids=lambda story: f"languages-{title(story)}")
def test_one_login(scene, story):
    scene.recover()
    scene.perform(story)


def test_each_language_is_there():
    found = sorted(SHOPS[shop] for shop in LANGUAGES)
    assert found == sorted(set(SHOPS.values())), f"expected one shop of each language, found {LANGUAGES}"
