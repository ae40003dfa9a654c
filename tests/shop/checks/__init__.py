"""What a shop must do: SHOP.md, row by row and sentence by sentence.

A check is a function that takes a scene. It asserts; its first line of documentation is what the
report shows. `CHECKS` has all of them in the order in which they run. Each begins with browsers of
its own, so none needs another one.

`../test_checks.py` holds the checks themselves: each must find a fault that is put in on purpose.
"""

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


from . import pages, parallel, identity, sessions_of_a_user, cookies, hostile, settings, outages, process  # noqa: E402,F401
