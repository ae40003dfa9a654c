"""Forms with hostile input: nothing breaks, and what was accepted is what is shown."""

from urllib.parse import quote

from stage.browser import together

from . import check

TEXTS = [
    "tea & cake = 100% +1",
    "naïve ümläut €",
    "😀👩‍👩‍👧",
    "日本語",
    "\u2028\u2029\ufeff\u202e",
    "\\\"'`${1+1}{{7*7}}%s%d",
    "</script><script>alert(1)</script>",
    "a\r\nSet-Cookie: x=y\r\n\r\nb",
    "\t tabs and  spaces ",
    "__proto__",
    "constructor",
    "null",
    "1e999",
    "-0",
    '{"$set": 1}',
    "[]",
    "a" * 8000,
]


@check
async def text_comes_back_to_the_letter(scene):
    """items, flashes and users of any text come back to the letter"""
    ann = scene.browser()
    for number, text in enumerate(TEXTS, 1):
        (await ann.add(text)).answers({"items": number})
        (await ann.leave_flash(text)).answers({})
        (await ann.take_flash()).answers({"flash": text})
        if len(text) <= 256:
            (await ann.theme(text)).answers({"theme": text})
    await ann.shows(cart=TEXTS)

    async def log_in(user):
        browser = scene.browser()
        (await browser.login(user)).answers({"user": user})
        await browser.shows(user)
        (await browser.logout_everywhere()).answers({"ended": 1})

    # Space around a name may be cut off.
    users = [text for text in TEXTS if text.strip() == text and len(text.encode()) <= 256]
    await together(*map(log_in, users))


FORMS = [
    b"",
    b"item",
    b"item=",
    b"=tea",
    b"&&&=&;",
    b"item=a&item=b",
    b"item[]=a&item[]=b",
    b"item[a]=b",
    b"item[__proto__][x]=y&__proto__[x]=y",
    b"item.length=5",
    b"item=%zz%u0041%",
    b"item=%00",
    b"item=%ff%fe",
    b"item=%ed%a0%80",
    b"\xff\xfe\xfd=\xff",
    b"&".join(b"a%d=1" % number for number in range(2000)),
    b'{"item": {"a": 1}}',
]
NO_FORMS = ["application/json", "text/plain", "multipart/form-data; boundary=x", "x"]


@check
async def a_bad_form_breaks_nothing(scene):
    """forms that are broken, repeated, nested, empty or not forms are refused or read as text"""
    ann = scene.browser()
    await ann.login("ann")
    await ann.add("tea")
    items = 1
    for body in FORMS:
        answer = _accepted_or_refused(await ann.post("/cart", body=body))
        if answer.status == 200:
            items += 1
            assert answer.json == {"items": items}, f"expected {items} items: {answer}"
        for path, field in (("/flash", b"text"), ("/theme", b"theme"), ("/login", b"user"), ("/visit", b"x")):
            _accepted_or_refused(await scene.browser().post(path, body=body.replace(b"item", field)))
    for kind in NO_FORMS:
        for body in (b"item=x", b'{"item": "x"}', b'{"item": ["x"]}', b"--x\r\n\r\n"):
            # What a framework says to a body that is no form is its own affair, if it says something.
            for path in ("/cart", "/visit"):
                (await scene.browser().post(path, body=body, kind=kind)).has_status(200, *range(400, 502))
    shown = (await ann.session()).is_ok().json
    assert shown["user"] == "ann" and len(shown["cart"]) == items, f"expected {items} items: {shown}"
    odd = [item for item in shown["cart"] if not isinstance(item, str)]
    assert not odd, f"expected items to be text, found {odd}"


def _accepted_or_refused(answer):
    assert answer.status == 200 or 400 <= answer.status < 500, f"expected it to be accepted or refused, not to break: {answer}"
    return answer


@check
async def what_does_not_fit_harms_nothing(scene):
    """an item that is larger than a session may be is refused; the session stays as it was"""
    ann = scene.browser()
    await ann.login("ann")
    await ann.add("tea")
    answer = (await ann.add("x" * 70_000)).sets_no_cookie("nothing was done")
    assert answer.status not in (200, 503), f"expected it to be refused for good: {answer}"
    # The stream to the daemon is shared by all: others must not pay for it.
    answers = await together(*(ann.add("x" * 70_000) for _ in range(3)), *(ann.visit() for _ in range(3)))
    for visit in answers[3:]:
        visit.is_ok()
    await ann.shows("ann", visits=3, cart=["tea"])
    stranger = scene.browser()
    (await stranger.add("x" * 70_000)).sets_no_cookie("nothing was created")
    await stranger.is_a_stranger()


@check
async def odd_waits_break_nothing(scene):
    """a wait that is no number, negative or missing breaks nothing"""
    ann = scene.browser()
    await ann.visit()
    for ms in ("", "x", "-5", "1e1", "0", "NaN", "1.5", "%00", "1&ms=2"):
        _accepted_or_refused(await ann.get(f"/slow?ms={quote(ms, safe='&=%')}"))
    shown = (await ann.session()).is_ok().json
    assert shown["live"] and 1 <= shown["visits"] <= 10, f"expected the session to be in order: {shown}"
