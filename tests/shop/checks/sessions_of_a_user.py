"""All sessions of a user: the list of devices, logging out the others, logging out everywhere."""

from . import check


async def logged_in(scene, user, count):
    browsers = [scene.browser() for _ in range(count)]
    for browser in browsers:
        (await browser.login(user)).answers({"user": user})
    return browsers


@check
async def others_are_logged_out(scene):
    """logout-others ends the user's other sessions, and says how many"""
    here, *others = await logged_in(scene, "olga", 3)
    (bob,) = await logged_in(scene, "bob", 1)
    anonymous = scene.browser()
    await anonymous.visit()
    (await here.logout_others()).answers({"ended": 2}).sets_no_cookie("this session goes on")
    for other in others:
        await other.is_a_stranger()
    for _ in scene.sites:
        await here.shows("olga")
        await bob.shows("bob")
        await anonymous.shows(visits=1)
    (await here.logout_others()).answers({"ended": 0}).sets_no_cookie("this session goes on")
    (await anonymous.logout_others()).answers({"ended": 0}).sets_no_cookie("this session goes on")
    await anonymous.shows(visits=1)
    await here.shows("olga")


@check
async def all_are_logged_out(scene):
    """logout-everywhere ends all of the user's sessions, and says how many"""
    here, *others = await logged_in(scene, "emil", 3)
    (bob,) = await logged_in(scene, "bob", 1)
    old, anonymous = here.twin(), scene.browser()
    await anonymous.visit()
    (await here.logout_everywhere()).answers({"ended": 3}).deletes_the_cookie("the session has ended")
    for browser in (here, old, *others):
        await browser.is_a_stranger()
    await bob.shows("bob")
    await anonymous.shows(visits=1)
    kept = anonymous.twin()
    (await anonymous.logout_everywhere()).answers({"ended": 1}).deletes_the_cookie("the session has ended")
    await kept.is_a_stranger()
    again = old.twin()
    (await again.logout_everywhere()).answers({"ended": 0})


@check
async def everywhere_with_an_id_from_before(scene):
    """logout-everywhere with an id from before a login logs nobody in, and creates nothing"""
    late = scene.browser()
    await late.visit()
    ann = late.twin()
    await ann.login("dora")
    created = scene.daemon.created()
    answer = (await late.logout_everywhere()).has_status(200, 409)
    if answer.status == 409:
        answer.conflicts("the id is from before a login")
        await ann.shows("dora", visits=1)
    else:
        # As with a logout: the session of the id may end.
        answer.answers({"ended": 1}).deletes_the_cookie("the session has ended")
        await ann.is_a_stranger()
    assert scene.daemon.created() == created, "expected no session for an id from before a login"


@check
async def devices_are_listed(scene):
    """devices lists the user's sessions, marks this one, and shows no credential"""
    here, other = await logged_in(scene, "greta", 2)
    await logged_in(scene, "bob", 1)
    for browser in (here, other, here):
        # That no credential is in the body is a rule for every response.
        devices = (await browser.devices()).is_ok().sets_no_cookie("it only reads").json["devices"]
        found = {device["id"]: device["current"] for device in devices}
        expected = {here.public_id: browser is here, other.public_id: browser is other}
        assert len(devices) == 2 and found == expected, f"expected both sessions of greta, and {browser.public_id} to be the current one: {devices}"
    anonymous = scene.browser()
    await anonymous.visit()
    for nobody in (anonymous, scene.browser()):
        (await nobody.devices()).has_status(401).sets_no_cookie("nobody is logged in")
    (await here.logout_others()).answers({"ended": 1})
    (await other.devices()).has_status(401)
    devices = (await here.devices()).is_ok().json["devices"]
    assert [device["id"] for device in devices] == [here.public_id], f"expected the session that is left: {devices}"


@check
async def many_devices_are_all_listed(scene):
    """devices lists them all, also those that do not fit on one page of the daemon"""
    browsers = await logged_in(scene, "frida", 53)
    devices = (await browsers[0].devices()).is_ok().json["devices"]
    found = {device["id"] for device in devices}
    expected = {browser.public_id for browser in browsers}
    assert found == expected and len(devices) == 53, f"expected 53 sessions, found {len(devices)}; missing: {expected - found}"
    (await browsers[0].logout_everywhere()).answers({"ended": 53})
