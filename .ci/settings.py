"""Gives a built daemon the settings that the chart and the Compose file with Valkey would give it:
`sessiond check` must accept those of each mode, and the two daemons of Compose must share a session.
Needs the packages of .ci/helm.txt, redis-server and curl."""

import os
import pathlib
import re
import secrets
import select
import subprocess
import sys
import tempfile
import time

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
DAEMON = pathlib.Path(sys.argv[1]).resolve()


def chart(folder):
    """Every container of the golden renders, with its files below `folder`."""
    certificate = folder / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-noenc", "-subj", "/CN=sessiond"]
        + ["-keyout", f"{certificate}.key", "-out", f"{certificate}.crt"],
        check=True,
        capture_output=True,
    )
    checked = 0
    for golden in sorted((ROOT / "deploy/helm/golden").glob("*.txt")):
        text = golden.read_text()
        parts = [part for part in text.split("---\n# Source: ") if ".yaml\n" in part[:120]]
        manifests = [m for part in parts for m in yaml.safe_load_all(part.split("\n", 1)[1])]
        root = folder / golden.stem
        config = next(m for m in manifests if m["kind"] == "ConfigMap")
        (root / "etc/sessiond/config").mkdir(parents=True)
        (root / "etc/sessiond/config/sessiond.toml").write_text(config["data"]["sessiond.toml"])
        for manifest in manifests:
            pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
            for container in pod.get("initContainers", []) + pod.get("containers", []):
                if container["name"] != "sessiond":
                    continue
                variables = {}
                for variable in container["env"]:
                    value = re.sub(r"^/(etc|var)/", f"{root}/\\1/", variable["value"])
                    variables[variable["name"]] = value
                    path = pathlib.Path(value)
                    if root in path.parents and path.suffix in (".crt", ".key"):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_text(certificate.with_suffix(path.suffix).read_text())
                    elif root in path.parents and "secrets" in path.parts:
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_text(secrets.token_urlsafe(48) + "\n")
                        path.chmod(0o600)
                told = subprocess.run(
                    [DAEMON, "check"], env=variables, cwd=root, capture_output=True, text=True
                )
                assert told.returncode == 0, f"{golden.name}: {told.stderr}"
                # A file without names would be accepted, too.
                assert 'format = "json"' in told.stdout, f"{golden.name}: {told.stdout}"
                checked += 1
    assert checked == 4, f"expected a container in each of 4 golden files, found {checked}"


def compose(folder):
    """In a network of its own, where the usual ports are free."""
    services = yaml.safe_load((ROOT / "deploy/compose-redis.yaml").read_text())["services"]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for name in ["token", "cookie-secret", "valkey-password"]:
        path = folder / name
        path.write_text(secrets.token_urlsafe(48) + "\n")
        path.chmod(0o600)

    def here(text):
        return text.replace("/run/secrets", str(folder)).replace("//valkey:", "//127.0.0.1:")

    store = services["valkey"]
    script = here(store["command"][-1]).replace("$$", "$").replace("valkey-server", "redis-server")
    ping = store["healthcheck"]["test"][1].replace("valkey-cli", "redis-cli")
    log = (folder / "log").open("w+")
    running = [subprocess.Popen(["sh", "-c", script], cwd=folder, stdout=subprocess.DEVNULL)]
    try:
        for _ in range(100):
            if subprocess.run(["sh", "-c", ping], capture_output=True).returncode == 0:
                break
            time.sleep(0.05)
        environment = {k: here(v) for k, v in services["sessiond"]["environment"].items()}
        ports = [50051, 50061]
        for port in ports:
            environment["SESSIOND_LISTEN__GRPC"] = f"0.0.0.0:{port}"
            settings = ["--set", "listen.admin=[]", "--set", "listen.metrics="]
            daemon = subprocess.Popen(
                [DAEMON, "serve", *settings],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )
            running.append(daemon)
            if select.select([daemon.stdout], [], [], 30)[0]:
                ready = daemon.stdout.readline()
            else:
                ready = b"nothing for 30 s"
            assert b"ready" in ready, f"expected the daemon to start, found {ready}"
        token = (folder / "token").read_text().strip()

        def resolve(port, message):
            """A Resolve by curl: five bytes before the message, as gRPC frames it."""
            return subprocess.run(
                ["curl", "--silent", "--http2-prior-knowledge", "--max-time", "5"]
                + ["--header", "content-type: application/grpc", "--header", "te: trailers"]
                + ["--header", f"authorization: Bearer {token}", "--data-binary", "@-"]
                + [f"http://127.0.0.1:{port}/sessiond.v1.SessionService/Resolve"],
                input=b"\0" + len(message).to_bytes(4, "big") + message,
                stdout=subprocess.PIPE,
                check=True,
            ).stdout

        created = resolve(ports[0], b"\x20\x01")  # create
        cookie = re.search(rb"__Host-session=[^;]+", created)
        assert cookie, f"expected a cookie, found {created}"
        header = b"\x0a" + bytes([len(cookie[0])]) + cookie[0]
        found = resolve(ports[1], b"\x12" + bytes([len(header)]) + header)
        assert found[5:7] == b"\x08\x01", f"expected the other daemon to know it, found {found}"
    except Exception:
        log.seek(0)
        print(log.read())
        raise
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait()


def main():
    if sys.argv[2:] != ["compose"]:
        again = ["unshare", "--net", sys.executable, "-B", __file__, str(DAEMON), "compose"]
        with tempfile.TemporaryDirectory() as folder:
            chart(pathlib.Path(folder))
        os.execvp(again[0], again)
    with tempfile.TemporaryDirectory() as folder:
        compose(pathlib.Path(folder))


main()
