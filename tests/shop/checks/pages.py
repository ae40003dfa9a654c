"""The table: what each page answers to one browser, and what it costs."""

import json

from . import check


@check
async def the_pages_answer_as_the_table_says(scene):
    """every page answers as the table says, and sets a cookie only where there is something to learn"""
    ann = scene.browser()
    await ann.is_a_stranger()
    (await ann.visit()).answers({"visits": 1}).sets_a_cookie("the session is new")
    (await ann.visit()).answers({"visits": 2}).sets_no_cookie("the browser has it")
    (await ann.add("tea")).answers({"items": 1}).sets_no_cookie("the browser has it")
    (await ann.add("tea")).answers({"items": 2}).sets_no_cookie("the browser has it")
    (await ann.theme("dark")).answers({"theme": "dark"}).sets_no_cookie("the browser has it")
    await ann.shows(visits=2, cart=["tea", "tea"])
    (await ann.leave_flash("hi")).answers({}).sets_no_cookie("the browser has it")
    (await ann.take_flash()).answers({"flash": "hi"}).sets_no_cookie("the browser has it")
    (await ann.take_flash()).answers({"flash": None}).sets_no_cookie("the browser has it")
    (await ann.slow(10)).answers({"written": True}).sets_no_cookie("the browser has it")
    await ann.shows(visits=3, cart=["tea", "tea"])
    (await ann.login("ann")).answers({"user": "ann"}).sets_a_cookie("the id is new")
    await ann.shows("ann", visits=3, cart=["tea", "tea"])
    (await ann.logout_others()).answers({"ended": 0}).sets_no_cookie("this session goes on")
    (await ann.logout()).answers({}).deletes_the_cookie("the session has ended")
    assert ann.cookie is None, "expected the browser to have no cookie after the logout"
    await ann.is_a_stranger()


@check
async def each_change_creates_the_session(scene):
    """a stranger's first change creates one session, whichever page it is"""
    before = scene.daemon.created()
    for number, path, form, answer in [
        (1, "/visit", {}, {"visits": 1}),
        (2, "/cart", {"item": "tea"}, {"items": 1}),
        (3, "/flash", {"text": "hi"}, {}),
        (4, "/theme", {"theme": "dark"}, {"theme": "dark"}),
        (5, "/login", {"user": "ann"}, {"user": "ann"}),
    ]:
        ann = scene.browser()
        (await ann.post(path, form)).answers(answer).sets_a_cookie("the session is new")
        created = scene.daemon.created() - before
        assert created == number, f"expected POST {path} to create one session, found {created - number + 1}"
        shown = (await ann.session()).is_ok().json
        assert shown["live"] is True, f"expected a live session after POST {path}: {shown}"


@check
async def a_stranger_leaves_no_trace(scene):
    """a stranger who changes nothing creates nothing, gets no cookie, and costs the daemon nothing"""
    await scene.browser().visit()  # The shop has now asked what there is to know of the daemon.
    await scene.browser().visit()
    created, operations = scene.daemon.created(), scene.daemon.operations()
    stranger = scene.browser()
    for _ in scene.sites:
        await stranger.is_a_stranger()
        (await stranger.take_flash()).answers({"flash": None}).sets_no_cookie("there is no session")
        (await stranger.slow(1)).answers({"written": False}).sets_no_cookie("there is no session")
        (await stranger.logout()).answers({}).sets_no_cookie("there is no cookie to delete")
        (await stranger.logout_others()).answers({"ended": 0}).sets_no_cookie("there is no session")
        (await stranger.logout_everywhere()).answers({"ended": 0}).sets_no_cookie("there is no session")
        (await stranger.devices()).has_status(401).sets_no_cookie("there is no session")
        # A page that does not exist, and one that wants POST.
        (await stranger.get("/nothing")).has_status(404).sets_no_cookie("there is no such page")
        (await stranger.get("/visit")).has_status(404, 405).sets_no_cookie("there is no such page")
    assert scene.daemon.created() == created, "expected no session for a stranger who changes nothing"
    asked = scene.daemon.operations() - operations
    assert not asked, f"expected no call of the daemon for a request without the cookie, found {dict(asked)}"


@check
async def a_read_changes_nothing(scene):
    """a page that reads costs one Resolve, and the session stays as it was"""
    ann = scene.browser()
    await ann.visit()
    (await ann.login("ann")).is_ok()
    version = scene.daemon.record(ann)["version"]
    operations = scene.daemon.operations()
    for _ in scene.sites:
        await ann.shows("ann", visits=1)
        (await ann.take_flash()).answers({"flash": None}).sets_no_cookie("there is none to take")
    asked = scene.daemon.operations() - operations
    expected = {"Resolve": 2 * len(scene.sites)}
    assert asked == expected, f"expected one Resolve for each page, found {dict(asked)}"
    after = scene.daemon.record(ann)["version"]
    assert after == version, f"expected no Write, found version {after} after {version}"


@check
async def a_change_is_one_write(scene):
    """a page that changes something writes once, and only what it changed"""
    ann = scene.browser()
    for change, *what in (
        (ann.visit,),
        (ann.theme, "dark"),
        (ann.visit,),
        (ann.theme, "light"),
        (ann.add, "tea"),
        (ann.leave_flash, "hi"),
        (ann.take_flash,),
        (ann.slow, 1),
        (ann.login, "ann"),
        (ann.login, "ann"),
    ):
        operations = scene.daemon.operations()
        response = (await change(*what)).is_ok()
        asked = scene.daemon.operations() - operations
        assert asked["Write"] == 1 and asked["Resolve"] <= 2, f"expected one Write, found {dict(asked)}: {response}"
    data = scene.daemon.record(ann)["data"]
    assert '"light"' in json.dumps(data), f"expected the theme in what is stored, found {data}"
