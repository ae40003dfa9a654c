"""The shop as a process, after all that: what it has logged, and how it ends. These come last."""

import asyncio
import re

from . import check

# What runtimes print when a fault was not handled, or a resource was not given back.
FAULTS = re.compile(
    r"unhandled|uncaught|never awaited|never retrieved|ERR_HTTP_HEADERS_SENT|MaxListenersExceeded"
    r"|ResourceWarning|DeprecationWarning|Segmentation fault|panicked at"
    r"|goroutine \d+ \[|Exception in thread",
    re.IGNORECASE,
)


@check
async def the_log_holds_no_secret(scene):
    """no cookie that was ever set is in what the shop or the daemon has printed"""
    assert scene.secrets, "expected the checks before to have seen cookies"
    logs = "\n".join([shop.text() for shop in scene.shops] + scene.daemon.logs + scene.daemon.process.log)
    found = [line for line in logs.splitlines() if any(secret in line for secret in scene.secrets)]
    assert not found, f"expected no credential in a log, found it in {len(found)} lines, of which the first begins: {found[0][:60]}"


@check
async def the_log_tells_of_no_fault(scene):
    """what the shop has printed tells of no fault that was not handled"""
    for shop in scene.shops:
        lines = shop.text().splitlines()
        found = [number for number, line in enumerate(lines) if FAULTS.search(line)]
        if found:
            some = "\n".join(lines[max(0, found[0] - 3) : found[0] + 25])
            raise AssertionError(f"expected no fault in the log, found {len(found)}, of which the first:\n{some}")


@check
async def the_shop_stops_when_it_is_told(scene):
    """the shop ends on SIGTERM within 10 s, and leaves no process behind"""
    for site in scene.sites:
        site.hang_up()
    await asyncio.sleep(0.05)
    for shop in scene.shops:
        shop.stops(10)
