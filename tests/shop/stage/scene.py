"""A daemon and a shop in front of it, twice: once over TCP and once over a unix socket. Or several shops."""

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from .browser import Browser, Site
from .daemon import COOKIE, Daemon
from .process import Process, environment

# The first start of a shop installs its packages.
INSTALL = 240
# When the daemon is back, all goes on by itself within a second. A busy machine takes longer; so do clients
# whose pauses grow to many seconds.
WITHIN = 3


class Scene:
    """What a check gets. `sites` are two processes of one shop, or one of each of several, which share their sessions."""

    def __init__(self, name, *runs):
        self.name = name
        self.home = Path(tempfile.mkdtemp(prefix=f"shop-{name}-"))
        self.cookie_name = COOKIE
        self.secrets = set()
        self.figures = {}
        self.shops = []
        self.sites = []
        self.daemon = Daemon(self.home)
        self._runner = asyncio.Runner()
        try:
            self.daemon.start()
            for number, run in enumerate(runs * 2 if len(runs) == 1 else runs):
                self.open_shop(Path(run), self.daemon.unix if number % 2 else self.daemon.tcp)
        except BaseException:
            self.close()
            raise

    def open_shop(self, run, address):
        variables = environment(
            SESSIOND=address,
            SESSIOND_ADMIN=self.daemon.admin,
            SESSIOND_NODE_PACKAGE=os.environ.get("SESSIOND_NODE_PACKAGE"),
            SESSIOND_PYTHON_PACKAGE=os.environ.get("SESSIOND_PYTHON_PACKAGE"),
            SESSIOND_GO_PACKAGE=os.environ.get("SESSIOND_GO_PACKAGE"),
            SESSIOND_RUST_PACKAGE=os.environ.get("SESSIOND_RUST_PACKAGE"),
            SESSIOND_JAVA_PACKAGE=os.environ.get("SESSIOND_JAVA_PACKAGE"),
            PORT="0",
        )
        shop = Process([run], "listening on http://", INSTALL, env=variables, cwd=run.parent)
        self.shops.append(shop)
        self.sites.append(Site(shop.ready_line.split()[-1], run.parent.name))

    def perform(self, check):
        """Runs a check to its end."""
        self._runner.run(check(self))

    def put_in(self, fault):
        """Puts a fault into the reference shop; "" takes it out."""

        async def at_each_site(_):
            for site in self.sites:
                (await Browser(self).post("/fault", {"name": fault}, site=site)).answers({})

        self.perform(at_each_site)

    def browser(self, cookie=None):
        return Browser(self, cookie)

    def saw(self, cookie):
        """Remembers the secret half of a cookie, which must not be seen anywhere else."""
        if len(cookie) > 40:
            self.secrets.add(cookie[16:40])

    def note(self, what, seconds):
        """A measured time, for the report: the longest counts."""
        self.figures[what] = max(seconds, self.figures.get(what, 0))

    @contextlib.contextmanager
    def daemon_with(self, **settings):
        """The daemon with other settings, and afterwards as before."""
        self.daemon.stop()
        self.daemon.start(**settings)
        self.cookie_name = settings.get("engine__default__cookie__name", COOKIE)
        try:
            yield
        finally:
            self.cookie_name = COOKIE
            self.daemon.resume()
            self.daemon.stop()
            self.daemon.start()

    async def goes_on(self, what, ask, within=WITHIN):
        """Asks each process of the shop until it answers without 503, and checks that it does so by
        itself soon, `within` seconds from now. `ask(site)` sends a request. Returns the first good
        answers."""
        since = time.monotonic()
        return await asyncio.gather(*(self._goes_on(what, ask, site, since, within) for site in self.sites))

    async def _goes_on(self, what, ask, site, since, within):
        while True:
            response = await ask(site)
            took = time.monotonic() - since
            if response.status != 503:
                response.is_ok()
                self.note(what, took)
                assert took <= within, f"expected it to go on within {within} s; {took:.2f} s {what}: {response}"
                return response
            response.is_unavailable(what)
            assert took <= 15, f"expected it to go on by itself; {took:.0f} s {what}: {response}"
            await asyncio.sleep(0.02)

    async def _is_reached(self, _scene):
        for site in self.sites:
            while (await self.browser().visit(site=site)).status == 503:
                await asyncio.sleep(0.05)

    def recover(self):
        """Makes sure that the next check finds everything in order, whatever the last one left."""
        for shop in self.shops:
            assert shop.alive(), f"the shop has ended with {shop.child.returncode}\n{shop.text()[-4000:]}"
        if self.daemon.process and self.daemon.process.alive():
            self.daemon.resume()
        else:
            self.daemon.kill()
            self.daemon.start()
            self.perform(self._is_reached)

    def close(self):
        for shop in self.shops:
            shop.kill()
        self._runner.close()
        self.daemon.resume()
        self.daemon.kill()
        shutil.rmtree(self.home, ignore_errors=True)
