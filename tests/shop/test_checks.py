"""The suite itself: each fault that is put into the reference shop is found by the check that is for it.

A check that cannot fail is worth nothing. `tests/shop/run --checks` also sees the reference shop pass all
checks without a fault.
"""

import pytest

import checks
from checks import cookies, hostile, identity, outages, pages, parallel, process, sessions_of_a_user, settings
from stage.scene import Scene

from conftest import REFERENCE, run_of

FOUND_BY = [
    ("drops visits", pages.the_pages_answer_as_the_table_says),
    ("sets two cookies", pages.each_change_creates_the_session),
    ("always sets the cookie", pages.the_pages_answer_as_the_table_says),
    ("lets caches keep it", pages.the_pages_answer_as_the_table_says),
    ("changes the cookie's attributes", pages.the_pages_answer_as_the_table_says),
    ("creates on reading", pages.a_stranger_leaves_no_trace),
    ("asks for strangers", pages.a_stranger_leaves_no_trace),
    ("writes on reading", pages.a_read_changes_nothing),
    ("asks too often", pages.a_change_is_one_write),
    ("loses updates", parallel.no_visit_is_lost),
    ("loses updates", parallel.no_item_is_lost),
    ("writes all it read", parallel.different_changes_all_survive),
    ("shows a flash twice", parallel.a_flash_is_shown_once),
    ("overwrites what came meanwhile", parallel.a_slow_request_overwrites_nothing),
    ("mixes up browsers", parallel.browsers_are_apart),
    ("remembers sessions", parallel.no_visit_is_lost),
    ("keeps the id at a login", identity.a_login_gives_a_new_id),
    ("keeps the id at a second login", identity.a_login_gives_a_new_id),
    ("takes any id", identity.no_id_comes_from_outside),
    ("keeps another user's data", identity.an_anonymous_cart_is_kept),
    ("counts characters", identity.bad_users_are_refused),
    ("takes superseded for nobody", identity.an_id_from_before_a_login),
    ("takes superseded for nobody", identity.requests_in_flight_at_a_login),
    ("deletes cookies from before a login", identity.an_id_from_before_a_login),
    ("recreates after a logout", identity.a_logout_is_not_undone),
    ("recreates after a logout", identity.changes_at_a_logout),
    ("recreates after a login", identity.a_slow_request_over_a_login),
    ("keeps the cookie at a logout", identity.a_logout_is_final),
    ("logs out everywhere", identity.a_logout_is_final),
    ("ignores late logouts", identity.a_logout_with_an_id_from_before),
    ("ends this with the others", sessions_of_a_user.others_are_logged_out),
    ("counts the others only", sessions_of_a_user.all_are_logged_out),
    ("creates at a late logout", sessions_of_a_user.everywhere_with_an_id_from_before),
    ("shows a credential", sessions_of_a_user.devices_are_listed),
    ("lists devices of nobody", sessions_of_a_user.devices_are_listed),
    ("lists one page", sessions_of_a_user.many_devices_are_all_listed),
    ("decodes cookies", cookies.odd_octets_break_nothing),
    ("takes the first cookie of the name", cookies.junk_does_not_hide_the_cookie),
    ("finds the name in small letters", cookies.what_is_not_the_cookie_is_nobody),
    ("strips text", hostile.text_comes_back_to_the_letter),
    ("breaks on empty forms", hostile.a_bad_form_breaks_nothing),
    ("loses the session with what does not fit", hostile.what_does_not_fit_harms_nothing),
    ("breaks on odd waits", hostile.odd_waits_break_nothing),
    ("sets all cookies", settings.old_cookies_after_a_new_secret),
    ("remembers sessions", settings.an_idle_session_expires),
    ("asks for the name once", settings.another_daemon),
    ("gives up at once", outages.a_restart_is_not_noticed),
    ("logs out in an outage", outages.a_crash_loses_nothing),
    ("answers before it writes", outages.a_crash_loses_nothing),
    ("takes an outage for nobody", outages.the_daemon_is_away),
    ("does not say when", outages.the_daemon_is_away),
    ("comes back late", outages.the_daemon_is_away),
    ("waits for ever", outages.the_daemon_is_paused),
    ("gives up at once", outages.a_short_pause_is_not_noticed),
    ("logs out in an outage", outages.the_store_is_away),
    ("logs cookies", process.the_log_holds_no_secret),
    ("leaves faults to others", process.the_log_tells_of_no_fault),
    ("ignores SIGTERM", process.the_shop_stops_when_it_is_told),
]
# A check whose fault is that what it asks for harms the others.
BY_OTHERS = {parallel.first_requests_at_once, parallel.a_browser_that_hangs_up}


@pytest.fixture(scope="session")
def faulty():
    scene = Scene(REFERENCE, run_of(REFERENCE))
    yield scene
    scene.close()


def ids(case):
    return case.__name__ if callable(case) else case.replace(" ", "-")


@pytest.mark.parametrize(("fault", "by"), FOUND_BY, ids=ids)
def test_a_fault_is_found(request, fault, by):
    # A scene that a check has ended is of no use to others.
    ends = by in (process.the_shop_stops_when_it_is_told, process.the_log_tells_of_no_fault, process.the_log_holds_no_secret)
    scene = Scene(REFERENCE, run_of(REFERENCE)) if ends else request.getfixturevalue("faulty")
    try:
        scene.recover()
        scene.put_in(fault)
        with pytest.raises(AssertionError):
            scene.perform(by)
    finally:
        scene.daemon.resume()
        if ends:
            scene.close()
        else:
            scene.put_in("")


def test_every_check_has_a_fault():
    left = set(checks.CHECKS) - {check for _, check in FOUND_BY} - BY_OTHERS
    assert not left, f"expected a fault for each check, but these have none: {sorted(map(ids, left))}"
