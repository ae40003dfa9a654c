"""Every check at every shop."""

from conftest import title


def test_shop(scene, check, record_property):
    record_property("shop", scene.name)
    record_property("check", title(check))
    scene.figures.clear()
    scene.recover()
    try:
        scene.perform(check)
    finally:
        record_property("figures", dict(scene.figures))
