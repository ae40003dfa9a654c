"""Starts one of the Python examples: `run_python.py FOLDER EXTRA COMMAND...`.

Installs the client package, with its extra, and requirements.txt into FOLDER/.venv, and then becomes
COMMAND in that folder. The package is the wheel that SESSIOND_PYTHON_PACKAGE names, or else
is built from clients/python."""

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[1] / "clients" / "python"


def package() -> Path:
    wheel = os.environ.get("SESSIOND_PYTHON_PACKAGE")
    return Path(wheel).resolve() if wheel else CLIENT


def digest(*paths: Path) -> str:
    sum = hashlib.sha256(sys.version.encode())
    for path in paths:
        files = sorted([*(path / "src").rglob("*.py"), path / "pyproject.toml"]) if path.is_dir() else [path]
        for file in files:
            sum.update(file.read_bytes())
    return sum.hexdigest()


def install(folder: Path, extra: str) -> Path:
    """Makes the virtual environment, unless it is there and nothing has changed."""
    home, requirements = folder / ".venv", folder / "requirements.txt"
    python, stamp = home / "bin" / "python", home / "stamp"
    wanted = digest(package(), requirements)
    with open(folder / ".venv.lock", "w") as lock:  # two may be started at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            venv.create(home, clear=True, with_pip=True)
            command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*command, f"{package()}[{extra}]", "-r", requirements], check=True, stdout=sys.stderr)
            stamp.write_text(wanted)
    return python


def main() -> None:
    folder, extra, *command = sys.argv[1:]
    python = install(Path(folder).resolve(), extra)
    os.chdir(folder)
    os.execv(python, [str(python), *command])


if __name__ == "__main__":
    main()
