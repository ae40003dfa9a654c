#!/usr/bin/env python3
"""The client packages, packed as they would be published, and a Python with pinned requirements.
`benches/frontends` uses this, too.

  eval "$(tests/shop/packages.py)"    packs all, and names them to whatever installs them: the shops,
                                      the tests of the packages
"""

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import go_module

HERE = Path(__file__).resolve().parent
# A checkout whose examples/ and clients/ are used; otherwise this one.
ROOT = Path(os.environ.get("SHOP_ROOT") or HERE.parents[1]).resolve()
TARGET = ROOT / "target" / "shop"


def call(*command, cwd=ROOT):
    subprocess.run([str(word) for word in command], cwd=cwd, check=True, stdout=sys.stderr)


def python(home, requirements, wheel=None):
    """A Python with these requirements in `home`. It is installed once. The wheel is installed anew each
    time, because its version says nothing about what it was built from."""
    stamp, wanted = home / "stamp", sys.version + requirements.read_text()
    interpreter = home / "bin/python"
    pip = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(home, clear=True, with_pip=True)
        call(*pip, "-r", requirements)
        stamp.write_text(wanted)
    if wheel:
        call(*pip, wheel)
        call(*pip, "--force-reinstall", "--no-deps", wheel)
    return interpreter


def suite_python():
    """A Python with what the suite needs."""
    return python(TARGET / "venv", HERE / "requirements.txt")


def node_package():
    """The file that SESSIOND_NODE_PACKAGE names, or what `npm pack` makes."""
    named = os.environ.get("SESSIOND_NODE_PACKAGE")
    if named:
        return Path(named).resolve()
    packages, folder = TARGET / "node", ROOT / "clients" / "node"
    shutil.rmtree(packages, ignore_errors=True)
    packages.mkdir(parents=True)
    if not (folder / "node_modules").exists():
        call("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error", cwd=folder)
    call("npm", "pack", "--loglevel=error", "--pack-destination", packages, cwd=folder)
    return _only(packages.glob("*.tgz"))


def python_package():
    """The file that SESSIOND_PYTHON_PACKAGE names, or the wheel that `python -m build` makes."""
    named = os.environ.get("SESSIOND_PYTHON_PACKAGE")
    if named:
        return Path(named).resolve()
    packages = TARGET / "python"
    shutil.rmtree(packages, ignore_errors=True)
    call(suite_python(), "-m", "build", "--outdir", packages, ROOT / "clients" / "python")
    return _only(packages.glob("*.whl"))


def go_package():
    """The folder that SESSIOND_GO_PACKAGE names, or one that is made as a proxy of modules, with the client in it."""
    named = os.environ.get("SESSIOND_GO_PACKAGE")
    return Path(named).resolve() if named else go_module.pack(ROOT / "clients" / "go", TARGET / "go")


def rust_package():
    """The folder that SESSIOND_RUST_PACKAGE names, or what is in the file that `cargo package` makes."""
    named = os.environ.get("SESSIOND_RUST_PACKAGE")
    if named:
        return Path(named).resolve()
    packages = TARGET / "rust"
    shutil.rmtree(packages, ignore_errors=True)
    # A shop is built from it, so cargo need not build it as well.
    command = ["cargo", "package", "--quiet", "--package", "sessiond-client", "--allow-dirty", "--no-verify"]
    call(*command, "--target-dir", packages)
    packed = _only((packages / "package").glob("*.crate"))
    with tarfile.open(packed) as archive:
        archive.extractall(packages, filter="data")
    return packages / packed.stem


def java_package():
    """The local Maven repository that SESSIOND_JAVA_PACKAGE names, or target/m2, with the client's jars installed. What
    Maven downloads stays there."""
    named = os.environ.get("SESSIOND_JAVA_PACKAGE")
    if named:
        return Path(named).resolve()
    repository = ROOT / "target" / "m2"
    maven = ["mvn", "--batch-mode", "--no-transfer-progress", "--quiet", f"-Dmaven.repo.local={repository}"]
    call(*maven, "-DskipTests", "-Dmaven.javadoc.skip", "install", cwd=ROOT / "clients" / "java")
    return repository


def _only(paths):
    paths = list(paths)
    if len(paths) != 1:
        sys.exit(f"expected one packed package, found {paths}")
    return paths[0]


if __name__ == "__main__":
    made = {
        "NODE": node_package,
        "PYTHON": python_package,
        "GO": go_package,
        "RUST": rust_package,
        "JAVA": java_package,
    }
    for name, package in ((name, make()) for name, make in made.items()):
        print(f"export SESSIOND_{name}_PACKAGE={shlex.quote(str(package))}")
