"""Builds the application in Go, with the packed client package."""

import shutil
import subprocess

from packages import call, go_package
from go_module import MODULE


def build(source, target):
    """Returns the program."""
    target.mkdir(parents=True, exist_ok=True)
    package = go_package()
    version = (package / MODULE / "@v" / "list").read_text().strip()
    for name in ("mod", "sum"):
        shutil.copy(source / f"go.{name}", target / f"packed.{name}")
    modules = target / "packed.mod"
    call("go", "mod", "edit", "-dropreplace", MODULE, "-require", f"{MODULE}@{version}", modules)
    others = subprocess.run(["go", "env", "GOPROXY"], check=True, capture_output=True, text=True).stdout.strip()
    call("env", f"GOPROXY=file://{package},{others}", f"GONOSUMDB={MODULE}", "go", "build", "-mod=mod", f"-modfile={modules}", "-o", target / "app", ".", cwd=source)
    return target / "app"
