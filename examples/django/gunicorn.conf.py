"""Serves the shop with gunicorn: one process, many threads, on PORT (0: a free one)."""

import os

bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
worker_class = "gthread"
threads = 64
loglevel = "warning"


def when_ready(server):
    print(f"listening on http://127.0.0.1:{server.LISTENERS[0].sock.getsockname()[1]}", flush=True)
