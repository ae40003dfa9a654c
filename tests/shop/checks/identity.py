"""Logins and logouts: a new id, whose data it is, and ids from before."""

import asyncio

from stage.browser import together

from . import check


@check
async def a_login_gives_a_new_id(scene):
    """somebody who planted or stole the cookie before the login is not logged in by it"""
    thief = scene.browser()
    (await thief.visit()).answers({"visits": 1})
    ann = thief.twin()
    planted = ann.cookie
    (await ann.login("ann")).answers({"user": "ann"}).sets_a_cookie("the id is new")
    assert ann.cookie != planted, "expected a new cookie at the login"
    assert ann.public_id == planted[:16], "expected the same session, with a new id"
    await thief.is_a_stranger()
    await ann.shows("ann", visits=1)
    # Again, for the same user.
    first = ann.twin()
    (await ann.login("ann")).answers({"user": "ann"}).sets_a_cookie("every login gives a new id")
    assert ann.cookie != first.cookie, "expected a new cookie at a second login of the same user"
    await first.is_a_stranger()
    await ann.shows("ann", visits=1)


@check
async def no_id_comes_from_outside(scene):
    """an invented cookie is not taken over, neither by a visit nor by a login"""
    planted = "A" * 40 + "." + "A" * 43
    for change, shown in (("/visit", {"visits": 1}), ("/login", {"visits": 0, "user": "ann"})):
        ann = scene.browser(planted)
        await ann.is_a_stranger()
        (await ann.post(change, {"user": "ann"})).is_ok().sets_a_cookie("the session is new")
        assert ann.cookie[:40] != planted[:40], "expected an id that the daemon made"
        await ann.shows(**shown)
        await scene.browser(planted).is_a_stranger()


@check
async def an_anonymous_cart_is_kept(scene):
    """an anonymous cart is kept at the login; what belonged to another user is not"""
    ann = scene.browser()
    await ann.add("tea")
    await ann.visit()
    await ann.leave_flash("for the visitor")
    (await ann.login("ann")).answers({"user": "ann"})
    await ann.shows("ann", visits=1, cart=["tea"])
    (await ann.login("ann")).answers({"user": "ann"})
    await ann.shows("ann", visits=1, cart=["tea"])
    (await ann.take_flash()).answers({"flash": "for the visitor"})
    await ann.theme("a theme of ann")
    await ann.leave_flash("for ann")
    # Somebody else at the same machine, without a logout.
    (await ann.login("bob")).answers({"user": "bob"}).sets_a_cookie("the id is new")
    await ann.shows("bob")
    (await ann.take_flash()).answers({"flash": None})
    stored = scene.daemon.record(ann)
    assert stored["principal"] == "bob" and "ann" not in str(stored), f"expected nothing of ann in bob's session: {stored}"


@check
async def bad_users_are_refused(scene):
    """a login without a user, or with one over 256 bytes, answers 400 and changes nothing"""
    stranger, ann = scene.browser(), scene.browser()
    await ann.login("ann")
    created, before = scene.daemon.created(), scene.daemon.record(ann)
    for user in ("", "a" * 257, "é" * 129, "😀" * 65):
        for browser in (stranger, ann):
            (await browser.login(user)).has_status(400).sets_no_cookie("the login was refused")
    for body in (b"", b"name=ann", b"user", b"="):
        (await stranger.post("/login", body=body)).has_status(400).sets_no_cookie("the login was refused")
    await ann.shows("ann")
    await stranger.is_a_stranger()
    assert scene.daemon.created() == created, "expected no session by a login that was refused"
    assert scene.daemon.record(ann) == before, "expected the session to stay as it was"
    for user in ("a" * 256, "é" * 128, "😀" * 64):
        browser = scene.browser()
        (await browser.login(user)).answers({"user": user}).sets_a_cookie("the session is new")
        await browser.shows(user)


@check
async def an_id_from_before_a_login(scene):
    """an id from before a login is nobody's: changes answer 409, no cookie changes, nothing is created"""
    late = scene.browser()
    await late.visit()
    ann = late.twin()
    await ann.login("ann")
    await ann.leave_flash("for ann")
    await ann.add("tea")
    before, created = scene.daemon.record(ann), scene.daemon.created()
    for site in scene.sites:
        await late.is_a_stranger()
        (await late.take_flash(site=site)).answers({"flash": None}).sets_no_cookie("it would replace the new one")
        (await late.slow(1, site=site)).answers({"written": False}).sets_no_cookie("it would replace the new one")
        (await late.devices(site=site)).has_status(401).sets_no_cookie("it would replace the new one")
        for change in (late.visit, late.logout_others):
            (await change(site=site)).conflicts("the id is from before a login")
        for path, form in (
            ("/cart", {"item": "coffee"}),
            ("/flash", {"text": "no"}),
            ("/theme", {"theme": "no"}),
            ("/login", {"user": "ann"}),
            ("/login", {"user": "bob"}),
        ):
            (await late.post(path, form, site=site)).conflicts("the id is from before a login")
    assert scene.daemon.created() == created, "expected no session for an id from before a login"
    assert scene.daemon.record(ann) == before, "expected ann's session to stay as it was"
    await ann.shows("ann", visits=1, cart=["tea"])
    (await ann.take_flash()).answers({"flash": "for ann"})


@check
async def requests_in_flight_at_a_login(scene):
    """requests that are in flight at a login do not log the user out"""
    for _ in range(5):
        ann = scene.browser()
        await ann.visit()
        late = [ann.twin() for _ in range(6)]
        pages = [tab.visit() if number % 2 else tab.add("tea") for number, tab in enumerate(late)]
        answers = await together(*pages[:3], ann.login("ann"), *pages[3:], ann.twin().slow(30), ann.twin().session())
        login = answers.pop(3)
        login.answers({"user": "ann"}).sets_a_cookie("the id is new")
        done = {"visits": 0, "items": 0}
        for answer in answers:
            answer.sets_no_cookie("the login has set a new one")
            if answer.status != 409:
                answer.is_ok()
                for name in done:
                    done[name] += name in answer.json and "cart" not in answer.json
                done["visits"] += answer.json == {"written": True}
        shown = (await ann.session()).is_ok().json
        assert shown["user"] == "ann" and shown["live"], f"expected ann to be logged in: {shown}"
        found = {"visits": shown["visits"] - 1, "items": len(shown["cart"])}
        assert found == done, f"expected what was answered with 200 to be there, {done}, and nothing else: {shown}"


@check
async def a_slow_request_over_a_login(scene):
    """a slow request that began before a login writes nothing after it, and changes no cookie"""
    ann = scene.browser()
    await ann.visit()
    slow = asyncio.ensure_future(ann.twin().slow(700))
    await asyncio.sleep(0.08)
    (await ann.login("ann")).answers({"user": "ann"})
    answer = (await slow).sets_no_cookie("it would replace the new one")
    if answer.status != 409:
        answer.answers({"written": False})
    await ann.shows("ann", visits=1)


@check
async def a_logout_is_final(scene):
    """after a logout its cookie is nobody's, and a new visit begins with a new session"""
    ann = scene.browser()
    await ann.login("ann")
    await ann.add("tea")
    other = scene.browser()
    await other.login("ann")
    old = ann.twin()
    (await ann.logout()).answers({}).deletes_the_cookie("the session has ended")
    assert scene.daemon.record(old) is None, "expected the daemon to have no record after the logout"
    for _ in scene.sites:
        await ann.is_a_stranger()
        await old.is_a_stranger()
        (await old.take_flash()).answers({"flash": None})
        (await old.slow(1)).answers({"written": False})
    (await old.devices()).has_status(401)
    await other.shows("ann")
    replay = old.twin()
    (await replay.visit()).answers({"visits": 1}).sets_a_cookie("the session is new")
    assert replay.public_id != old.public_id, "expected another session after the logout"
    await replay.shows(visits=1)
    (await old.twin().logout()).answers({})
    await old.is_a_stranger()


@check
async def a_logout_is_not_undone(scene):
    """a request that is in flight at a logout does not bring the session back"""
    for user in ("ann", None):
        browsers = [scene.browser() for _ in scene.sites]
        for ann in browsers:
            await ann.visit()
            if user:
                (await ann.login(user)).is_ok()
        tabs, created = [ann.twin() for ann in browsers], scene.daemon.created()
        slow = [asyncio.ensure_future(tab.slow(700, site=site)) for tab, site in zip(tabs, scene.sites)]
        await asyncio.sleep(0.08)
        for ann in browsers:
            (await ann.logout()).answers({}).deletes_the_cookie("the session has ended")
        for tab, answer in zip(tabs, await together(*slow)):
            answer.answers({"written": False})
            assert answer.deletes or not answer.cookies, f"expected no new cookie: {answer}"
            assert scene.daemon.record(tab) is None, "expected the session to stay ended"
            await scene.browser(tab.cookie).is_a_stranger()
        assert scene.daemon.created() == created, "expected no session in place of the one that was ended"


@check
async def changes_at_a_logout(scene):
    """changes at the same time as a logout: the session ends, and nobody is logged in afterwards"""
    for _ in range(5):
        ann = scene.browser()
        await ann.login("ann")
        old = ann.twin()
        tabs = [ann.twin() for _ in range(6)]
        answers = await together(*(tab.visit() for tab in tabs[:3]), ann.logout(), *(tab.add("tea") for tab in tabs[3:]))
        answers.pop(3).answers({}).deletes_the_cookie("the session has ended")
        await old.is_a_stranger()
        assert scene.daemon.record(old) is None, "expected the session to stay ended"
        for tab, answer in zip(tabs, answers):
            # The change came before the logout, or began a new session, or was dropped.
            answer.has_status(200, 409)
            shown = (await tab.session()).is_ok().json
            assert shown["user"] is None, f"expected nobody to be logged in: {shown} after {answer}"


@check
async def a_logout_with_an_id_from_before(scene):
    """a logout that was sent before the answer to a login came ends the session all the same"""
    late = scene.browser()
    await late.visit()
    ann = late.twin()
    await ann.login("ann")
    (await late.logout()).answers({}).deletes_the_cookie("the session has ended")
    await ann.is_a_stranger()
    assert scene.daemon.record(ann) is None, "expected the session to have ended"
