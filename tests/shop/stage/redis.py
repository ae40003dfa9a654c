"""A redis-server of its own, on a unix socket, that keeps what it has acknowledged."""

import shutil

from .process import Process, environment


def installed():
    return shutil.which("redis-server") is not None


class Redis:
    def __init__(self, home):
        self.home = home
        self.socket = f"{home}/redis.sock"
        self.process = None

    @property
    def url(self):
        return f"redis+unix://{self.socket}"

    def start(self):
        command = ["redis-server", "--port", "0", "--unixsocket", self.socket, "--dir", self.home]
        # Everything that was acknowledged survives `kill`.
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        self.process = Process(command, lambda line: "ready to accept connections" in line, env=environment())

    def kill(self):
        process, self.process = self.process, None
        if process:
            process.kill()
