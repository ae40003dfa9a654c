"""Which shops are driven, one scene for each, and the report."""

import sys
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from checks import CHECKS  # noqa: E402
from packages import ROOT  # noqa: E402
from shops import SHOPS  # noqa: E402
from stage.scene import Scene  # noqa: E402

REFERENCE = "reference"


def pytest_addoption(parser):
    parser.addoption("--shops", default=",".join(SHOPS), help="names of shops, separated by commas")


def run_of(name):
    return HERE / "reference" / "run" if name == REFERENCE else ROOT / "examples" / name / "run"


def pytest_generate_tests(metafunc):
    if "stage" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--shops").split(",")
        metafunc.parametrize("stage", wanted, indirect=True, scope="session", ids=wanted)
    if "check" in metafunc.fixturenames:
        metafunc.parametrize("check", CHECKS, ids=lambda check: check.__name__)


class ByShop(LoadScopeScheduling):
    """A shop is driven by one worker, one check after the other. (`--dist loadgroup` would say that, but
    xdist 3.8 loses its marks with pytest 9.)"""

    def _split_scope(self, nodeid):
        # test_shop[hyper-express-a_logout_is_final]
        return nodeid.partition("[")[2].rpartition("-")[0] or nodeid


def pytest_xdist_make_scheduler(config, log):
    return ByShop(config, log)


@pytest.fixture(scope="session")
def stage(request):
    """The scene of a shop, or why there is none."""
    run = run_of(request.param)
    try:
        assert run.exists(), f"expected {run}: there is no such shop"
        scene = Scene(request.param, run)
    except AssertionError as problem:
        yield problem
        return
    yield scene
    scene.close()


@pytest.fixture
def scene(stage, check):
    """The scene of a shop. One that does not start fails once."""
    if isinstance(stage, AssertionError):
        if check is CHECKS[0]:
            pytest.fail(str(stage), pytrace=False)
        pytest.skip("the shop did not start")
    return stage


def title(check):
    """What a check is called in the report."""
    return check.__name__.replace("_", " ")


def pytest_terminal_summary(terminalreporter):
    Report(terminalreporter).write()


class Report:
    """What each shop did: a row for each check, a column for each shop, and the measured times."""

    def __init__(self, reporter):
        self.reporter = reporter
        self.cells = {}  # (what, shop): text
        self.rows, self.shops, self.figures = [], [], {}
        for outcome in ("passed", "failed", "error", "skipped"):
            for report in reporter.stats.get(outcome, []):
                self._add(outcome, report)

    def _add(self, outcome, report):
        known = dict(getattr(report, "user_properties", []))
        if "check" not in known:
            return
        what, shop = known["check"], known["shop"]
        text = {"passed": f"{report.duration:.1f} s", "skipped": "skipped"}.get(outcome, "FAILED")
        self.cells[what, shop] = text
        self.shops += [shop] if shop not in self.shops else []
        for name, seconds in known.get("figures", {}).items():
            name = f"longest time, {name}"
            self.figures[name, shop] = max(seconds, self.figures.get((name, shop), 0))

    def write(self):
        if not self.cells:
            return
        order = [title(check) for check in CHECKS]
        rows = sorted({what for what, _ in self.cells}, key=order.index)
        order = [*SHOPS, REFERENCE]
        shops = sorted(self.shops, key=lambda shop: order.index(shop) if shop in order else 99)
        times = sorted({name for name, _ in self.figures})
        left, write = max(map(len, [*rows, *times])), self.reporter.write_line
        self.reporter.section("the shops")
        write(" " * left + "".join(f"{shop:>14}" for shop in shops), bold=True)
        for what in rows:
            cells = "".join(f"{self.cells.get((what, shop), '-'):>14}" for shop in shops)
            write(what.ljust(left) + cells, red="FAILED" in cells)
        for name in times:
            cells = (self.figures.get((name, shop)) for shop in shops)
            write(name.ljust(left) + "".join(f"{'-' if cell is None else f'{cell:.2f} s':>14}" for cell in cells))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure comes with what the shop has printed last."""
    outcome = yield
    report = outcome.get_result()
    scene = item.funcargs.get("scene")
    if report.failed and scene:
        for shop in scene.shops:
            report.sections.append((f"what {scene.name} has printed last", "\n".join((shop.lines[1:] + shop.log)[-8:])))
