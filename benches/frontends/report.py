"""The tables: what each application did, and the ratios against what is wanted."""

import datetime
import platform
import re
import statistics
import subprocess
from pathlib import Path

from bed import CHANGE_EVERY, SESSIONS

# Framework, what, and what is wanted at 64 in flight.
RATE, ADDED = "requests/s, ours / today", "CPU that ours adds / that today's adds"
# What RATE would be if ours cost nothing.
BOUND = "requests/s, bare / today"
# So much of the machine may others have had before the figures mean little.
QUIET = 0.05
WANTED = {
    ("Express", RATE): (">=", 2.0),
    ("Express", ADDED): ("<=", 0.2),
    ("FastAPI", RATE): (">=", 1.5),
    ("Django", RATE): (">=", 1.2),
    ("Django-idle", RATE): (">=", 1.2),
    ("Flask", RATE): (">=", 1.2),
    ("net/http", RATE): (">=", 1.3),
    ("net/http", ADDED): ("<=", 0.4),
    ("Spring", RATE): (">=", 1.2),
    ("axum", RATE): (">=", 1.2),
}
WORDS = {">=": "at least", "<=": "at most"}


class Report:
    def __init__(self, bed, arguments):
        self.bed, self.arguments = bed, arguments
        self.samples = {}  # (framework, variant, in flight): samples
        self.frameworks = list(dict.fromkeys(app.framework for app in bed.apps))
        self.clients = {}

    def add(self, app, in_flight, sample):
        self.samples.setdefault((app.framework.name, app.variant, in_flight), []).append(sample)

    def add_client(self, kind, text):
        self.clients[kind] = text

    def print(self):
        quick = "**These figures mean nothing: `--quick`.**\n\n" if self.arguments.quick else ""
        parts = [quick + self._busy() + self._conditions(), self._costs(64), self._ratios(), self._costs(1)]
        for kind, text in self.clients.items():
            # What comes before the table, as a paragraph of its own.
            text = re.sub(r"(?m)^([^|\n].*)\n(?=\|)", r"\1\n\n", text) if "|" in text else f"```text\n{text}\n```"
            parts.append(f"The client for {'Node' if kind == 'node' else 'Python'}, alone:\n\n{text}")
        print("\n\n".join(parts))

    def _conditions(self):
        a, redis = self.arguments, _first_line("redis-server", "--version")
        redis = re.search(r"v=(\S+)", redis)[1]
        return (
            f"Measured on {datetime.date.today()}. The machine: {_machine()}. {self.bed.cores.in_words()}\n"
            f"Node {_first_line('node', '--version').lstrip('v')}, Python {platform.python_version()}, Redis {redis} that keeps\n"
            f"nothing on disk; the daemon with its defaults: sled, changes acknowledged when the system has them. {SESSIONS} sessions of 400 bytes;\n"
            f"each request reads its session, one in {CHANGE_EVERY} changes it. {a.rounds} rounds of {a.seconds} s for each row: medians."
        )

    def _busy(self):
        foreign = statistics.median(sample["foreign"] for samples in self.samples.values() for sample in samples)
        if foreign <= QUIET:
            return ""
        return f"**The machine was not quiet: other processes had {foreign:.0%} of it. Measure again.**\n\n"

    def _median(self, framework, variant, in_flight, what):
        return statistics.median(sample[what] for sample in self.samples[framework.name, variant, in_flight])

    def _costs(self, in_flight):
        lines = [
            f"| {in_flight} in flight | requests/s | CPU per request, µs | p50, ms | p99, ms |",
            "| --- | --: | --: | --: | --: |",
        ]
        for framework in self.frameworks:
            for variant, name in (("bare", "bare"), ("today", framework.today), ("ours", "sessiond")):
                rate, cpu, p50, p99 = (self._median(framework, variant, in_flight, what) for what in ("rate", "cpu", "p50", "p99"))
                lines.append(f"| {framework.name}, {name} | {rate:.0f} | {cpu:.0f} | {p50:.2f} | {p99:.2f} |")
        return "\n".join(lines)

    def _ratios(self):
        lines = ["| 64 in flight | median | min..max | wanted | |", "| --- | --: | --: | --: | --- |"]
        for framework in self.frameworks:
            rounds = list(zip(*(self.samples[framework.name, variant, 64] for variant in ("bare", "today", "ours"))))
            rates = [ours["rate"] / today["rate"] for _, today, ours in rounds]
            added = [(ours["cpu"] - bare["cpu"]) / max(1e-9, today["cpu"] - bare["cpu"]) for bare, today, ours in rounds]
            bound = [bare["rate"] / today["rate"] for bare, today, _ in rounds]
            for what, values in ((RATE, rates), (BOUND, bound), (ADDED, added)):
                middle = statistics.median(values)
                wanted, met = "", ""
                if (framework.name, what) in WANTED:
                    sign, bar = WANTED[framework.name, what]
                    wanted = f"{WORDS[sign]} {bar:.1f}"
                    met = "met" if (middle >= bar if sign == ">=" else middle <= bar) else "**missed**"
                lines.append(f"| {framework.name}: {what} | {middle:.2f} | {min(values):.2f}..{max(values):.2f} | {wanted} | {met} |")
        return "\n".join(lines)


def _first_line(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]


def _machine():
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) / 2**20
    virtual = "a virtual machine, " if "hypervisor" in Path("/proc/cpuinfo").read_text() else ""
    return f"{len(models)} cores of {models[0].strip()}, {virtual}{memory:.0f} GiB, {platform.system()} {platform.release()}"
