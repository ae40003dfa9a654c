"""What the checks run on: a daemon, a shop in front of it, and browsers.

| file | what |
|---|---|
| `browser.py` | an HTTP client with a cookie jar, and the rules that hold for every response |
| `process.py` | a child process: its ready line, its log, its end |
| `daemon.py` | sessiond: restarted, killed, paused, with other settings; what it counts and stores |
| `redis.py` | a redis-server of its own |
| `scene.py` | all of these together |
"""
