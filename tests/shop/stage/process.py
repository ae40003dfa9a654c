"""A child process: its ready line, its log, its end."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

# The longest time that anything is waited for. It is no limit on speed.
PATIENCE = 60


class Process:
    """A child in a process group of its own, so that nothing of it is left behind."""

    def __init__(self, command, ready, patience=PATIENCE, **options):
        """Starts it, and waits for a line on stdout that begins with `ready` or, if that is a
        function, for which it returns true."""
        self.command = [str(word) for word in command]
        self.lines = []
        self.log = []
        self._found = threading.Event()
        self._ready = ready if callable(ready) else lambda line: line.startswith(ready)
        self.ready_line = None
        self.child = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **options,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(self.child.stdout, self.lines), daemon=True),
            threading.Thread(target=self._read, args=(self.child.stderr, self.log), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        end = time.monotonic() + patience
        while not self._found.wait(0.02):
            if self.child.poll() is not None or time.monotonic() > end:
                # What it printed last may not have been read yet.
                if self.child.poll() is not None and self._found.wait(0.5):
                    break
                self.kill()
                state = f"ended with {self.child.returncode}" if time.monotonic() < end else "did not"
                raise AssertionError(f"{self.name} was to get ready within {patience} s, but {state}\n{self.text()}")

    @property
    def name(self):
        return " ".join(Path(word).name if word.startswith("/") else word for word in self.command[:2])

    def _read(self, stream, lines):
        for raw in stream:
            line = raw.decode(errors="replace").rstrip("\n")
            lines.append(line)
            if lines is self.lines and self.ready_line is None and self._ready(line):
                self.ready_line = line
                self._found.set()

    def text(self):
        """All that it has printed so far."""
        return "\n".join(self.lines + self.log)

    def alive(self):
        return self.child.poll() is None

    def signal(self, number):
        os.kill(self.child.pid, number)

    def stop(self, patience=PATIENCE):
        """SIGTERM, and its exit code. It is killed, and None returned, if it does not end in time."""
        if self.alive():
            self.signal(signal.SIGTERM)
        try:
            code = self.child.wait(patience)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()
        return code

    def stops(self, seconds):
        """Asserts that it ends on SIGTERM in time, and leaves no child behind."""
        self.signal(signal.SIGTERM)
        try:
            self.child.wait(seconds)
            os.killpg(self.child.pid, 0)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"expected it to end on SIGTERM within {seconds} s\n{self.text()[-2000:]}") from None
        except ProcessLookupError:
            return
        finally:
            self.kill()
        raise AssertionError("expected it to leave no child behind: does `run` start the shop with exec?")

    def kill(self):
        """SIGKILL, to whatever is left of it."""
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()
        for reader in self._readers:
            reader.join(5)


def environment(**variables):
    """This process's environment without the variables of sessiond, and these in addition. None
    removes one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SESSIOND")}
    # gRPC, npm and pip would send requests to 127.0.0.1 through the machine's proxy, if there is one.
    kept["NO_PROXY"] = kept["no_proxy"] = ",".join(filter(None, [kept.get("no_proxy"), "127.0.0.1,localhost"]))
    kept.update({name: value for name, value in variables.items() if value is not None})
    return kept
