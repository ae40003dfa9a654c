"""Cookie headers: any octets, junk of all kinds, and the session's cookie among them."""

import secrets

from . import check

# All octets that may stand in a header, but for the two that part cookies.
ODD = bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)]).replace(b";", b"").replace(b",", b"")


@check
async def odd_octets_break_nothing(scene):
    """other cookies of any octets, valid UTF-8 or not, break nothing"""
    ann = scene.browser()
    await ann.login("ann")
    own = f"{scene.cookie_name}={ann.cookie}".encode()
    for odd in (
        b"x=" + ODD,
        ODD + b"=x",
        b"x=\xff\xfe\xfd",
        b"\xc3\x28=\xc3\x28",
        b"utf8=\xe2\x82\xac\xf0\x9f\x98\x80",
        "naïve=ümläut".encode(),
        "naïve=ümläut".encode("latin-1"),
        b"x=\x85\xa0y",  # Line breaks and spaces of Unicode, if it is read as such.
        b'x="a b \\" , c"',
        b"x=%00%ff%u1234%zz%",
        b"=; =x; x; ;;; x=",
        b"__proto__=1; constructor=2; toString=3; hasOwnProperty=4",
        b"$Version=1; $Path=/; x=y",
        b"x={\"a\":[1,2]}; y=<script>; z='--",
    ):
        for header in (odd + b"; " + own, own + b"; " + odd, odd + b";" + own + b";" + odd):
            shown = await ann.session(header=header)
            assert shown.status == 200 and shown.json["user"] == "ann", f"expected ann beside other cookies: {shown}"
            shown.sets_no_cookie("the browser has it")
        (await ann.add("tea", header=odd + b"; " + own)).is_ok()
        nobody = await scene.browser().session(header=odd)
        nobody.answers({"user": None, "visits": 0, "cart": [], "live": False}).sets_no_cookie("it only reads")
        stranger = scene.browser()
        (await stranger.visit(header=odd)).answers({"visits": 1}).sets_a_cookie("the session is new")


@check
async def junk_does_not_hide_the_cookie(scene):
    """junk cookies of the session's own name, before and behind it, do not hide it"""
    ann = scene.browser()
    await ann.login("ann")
    name = scene.cookie_name.encode()
    own = name + b"=" + ann.cookie.encode()
    forged = [f"{secrets.token_urlsafe(30)}.{secrets.token_urlsafe(32)}".encode() for _ in range(7)]
    for header in (
        name + b"=junk; " + own,
        own + b"; " + name + b"=junk",
        name + b"=; " + name + b"; " + own,
        name + b"=\xff\xfe; " + own,
        b"; ".join(name + b"=" + token for token in forged) + b"; " + own,
        b"; ".join([name + b"=" + b"x" * 20] * 30) + b"; " + own,
        b"; ".join(b"cookie%d=%064d" % (number, number) for number in range(60)) + b"; " + own,
        name.upper() + b"=junk; " + own,
        b"x" + name + b"=junk; " + own,
        b" \t" + own + b" \t",
    ):
        shown = await ann.session(header=header)
        assert shown.status == 200 and shown.json["user"] == "ann", f"expected ann beside junk: {shown}"
        shown.sets_no_cookie("the browser has it")


@check
async def what_is_not_the_cookie_is_nobody(scene):
    """cookies that only look like the session's are nobody's"""
    ann = scene.browser()
    await ann.login("ann")
    before = scene.daemon.record(ann)
    name, token = scene.cookie_name, ann.cookie
    last = "A" if token[-2] != "A" else "B"
    for header in (
        f"{name}=",
        name,
        f"{name}=junk",
        f"{name}={token[:40]}",
        f"{name}={token[:-2]}{last}{token[-1]}",
        f"{name}=A{token[1:]}" if token[0] != "A" else f"{name}=B{token[1:]}",
        f"{name}={token}x",
        f"{name}={token[::-1]}",
        f"{name.lower()}={token}",
        f"x{name}={token}",
        f"x={name}={token}",
        f"{name}={'A' * 3000}",
    ):
        for path, answer in (("/session", {"user": None, "visits": 0, "cart": [], "live": False}), ("/flash", {"flash": None})):
            (await scene.browser().get(path, header=header.encode())).answers(answer).sets_no_cookie("it only reads")
        (await scene.browser().slow(1, header=header.encode())).answers({"written": False})
        new = scene.browser()
        (await new.visit(header=header.encode())).answers({"visits": 1}).sets_a_cookie("the session is new")
        assert new.public_id != ann.public_id, "expected another session"
    assert scene.daemon.record(ann) == before, "expected ann's session to stay as it was"
    await ann.shows("ann")
