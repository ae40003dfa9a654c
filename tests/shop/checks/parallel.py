"""Requests at the same time: nothing is lost, nothing is seen by somebody else."""

import asyncio
import json

from stage.browser import together

from . import check

# Requests at the same time on one session; half of them at each process of the shop.
AT_ONCE = 12
# The first round opens the connections; the requests of later ones are sent at the same moment.
ROUNDS = 4


@check
async def no_visit_is_lost(scene):
    """parallel visits all count"""
    ann = scene.browser()
    await ann.visit()
    for done in range(1, 1 + ROUNDS * AT_ONCE, AT_ONCE):
        answers = await together(*(ann.visit() for _ in range(AT_ONCE)))
        found = sorted(answer.is_ok().json["visits"] for answer in answers)
        expected = list(range(done + 1, done + 1 + AT_ONCE))
        assert found == expected, f"expected each of {AT_ONCE} parallel visits to count once: {found} in place of {expected}"
        for answer in answers:
            answer.sets_no_cookie("the browser has it")
    await ann.shows(visits=1 + ROUNDS * AT_ONCE)


@check
async def no_item_is_lost(scene):
    """parallel items all stay in the cart"""
    ann = scene.browser()
    await ann.login("ann")
    items = [f"item {number}" for number in range(ROUNDS * AT_ONCE)]
    for begin in range(0, len(items), AT_ONCE):
        some = items[begin : begin + AT_ONCE]
        answers = await together(*(ann.add(item) for item in some))
        for answer in answers:
            answer.is_ok().sets_no_cookie("the browser has it")
    cart = (await ann.session()).is_ok().json["cart"]
    lost = sorted(set(items) - set(cart))
    assert not lost, f"expected all items in the cart, but these were lost: {lost}"
    assert sorted(cart) == sorted(items), f"expected each item once: {cart}"
    last = sorted(answer.json["items"] for answer in answers)
    assert last == list(range(len(items) - AT_ONCE + 1, len(items) + 1)), f"expected each item to be counted once: {last}"


@check
async def different_changes_all_survive(scene):
    """parallel changes of different things all survive"""
    ann = scene.browser()
    await ann.visit()
    visits, cart = 1, []
    for theme in ("dark", "light", "blue"):
        items = [f"{theme} {number}" for number in range(3)]
        answers = await together(
            *(ann.visit() for _ in range(3)),
            *(ann.add(item) for item in items),
            *(ann.theme(theme) for _ in range(3)),
            ann.leave_flash(theme + " flash"),
            ann.slow(20),
        )
        for answer in answers:
            answer.is_ok().sets_no_cookie("the browser has it")
        visits, cart = visits + 4, cart + items
        shown = (await ann.session()).is_ok().json
        assert shown["visits"] == visits, f"expected {visits} visits after parallel changes of other things: {shown}"
        assert sorted(shown["cart"]) == sorted(cart), f"expected {cart} after parallel changes of other things: {shown}"
        data = scene.daemon.record(ann)["data"]
        assert f'"{theme}"' in json.dumps(data), f"expected the theme {theme} to survive, found {data}"
        (await ann.take_flash()).answers({"flash": theme + " flash"})


@check
async def a_flash_is_shown_once(scene):
    """of parallel requests for a flash exactly one gets it"""
    ann = scene.browser()
    for number in range(6):
        text = f"message {number}"
        (await ann.leave_flash(text)).answers({})
        answers = await together(*(ann.take_flash() for _ in range(8)))
        found = [answer.is_ok().json["flash"] for answer in answers]
        assert found.count(text) == 1, f"expected {text!r} to be shown once, found {found}"
        assert found.count(None) == len(found) - 1, f"expected nothing but {text!r} once, found {found}"


@check
async def a_slow_request_overwrites_nothing(scene):
    """a slow request counts on top of what others changed meanwhile"""
    ann = scene.browser()
    await ann.visit()
    slow = asyncio.ensure_future(ann.slow(700))
    await asyncio.sleep(0.1)
    (await ann.visit()).answers({"visits": 2})
    (await ann.add("tea")).answers({"items": 1})
    (await slow).answers({"written": True}).sets_no_cookie("the browser has it")
    await ann.shows(visits=3, cart=["tea"])


@check
async def first_requests_at_once(scene):
    """first requests at the same time get a session each, and the browser keeps the last one"""
    before = scene.daemon.created()
    ann = scene.browser()
    answers = await together(*(ann.visit() for _ in range(6)))
    for answer in answers:
        answer.answers({"visits": 1}).sets_a_cookie("the session is new")
    assert scene.daemon.created() - before == 6, "expected one session for each request without a cookie"
    await ann.shows(visits=1)


@check
async def browsers_are_apart(scene):
    """many browsers at once, on shared connections: each sees its own user, visits, cart and flash"""

    async def shop(number):
        user, browser = f"user {number}", scene.browser()
        cart = [f"{number} anonymous"]
        (await browser.add(cart[0])).answers({"items": 1}).sets_a_cookie("the session is new")
        (await browser.login(user)).answers({"user": user}).sets_a_cookie("the id is new")
        for visits in range(1, 6):
            text, item = f"{user}, {visits}", f"{number} {visits}"
            (await browser.visit()).answers({"visits": visits})
            (await browser.add(item)).answers({"items": len(cart) + 1})
            cart.append(item)
            (await browser.leave_flash(text)).answers({})
            (await browser.take_flash()).answers({"flash": text})
            await browser.shows(user, visits, cart)
        (await browser.logout()).answers({}).deletes_the_cookie("the session has ended")
        await browser.is_a_stranger()

    await together(*(shop(number) for number in range(8)))


@check
async def a_browser_that_hangs_up(scene):
    """browsers that hang up in the middle of a request harm nobody"""
    ann = scene.browser()
    await ann.login("ann")
    for site in scene.sites:
        for request in (b"GET /slow?ms=100 HTTP/1.1\r\n", b"POST /visit HTTP/1.1\r\nContent-Length: 10\r\n"):
            _, writer = await asyncio.open_connection(site.host, site.port)
            cookie = f"{scene.cookie_name}={ann.cookie}".encode()
            writer.write(request + b"Host: shop\r\nCookie: " + cookie + b"\r\n\r\n")
            await asyncio.sleep(0.03)
            writer.close()
    await asyncio.sleep(0.15)
    for _ in scene.sites:
        shown = (await ann.session()).is_ok().json
        assert shown["user"] == "ann" and shown["visits"] <= 4, f"expected the session to be in order: {shown}"
        (await ann.add("tea")).is_ok()
