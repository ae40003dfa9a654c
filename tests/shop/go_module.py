"""The Go client as a module proxy serves it: https://go.dev/ref/mod#goproxy-protocol"""

import hashlib
import io
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

MODULE = "github.com/sessiond/sessiond/clients/go"


def pack(source, home):
    """Makes the folder `home` a proxy with this one module, in one version. That has a digest of the files, because Go
    keeps what it has once seen of a version."""
    source, versions = Path(source), Path(home) / MODULE / "@v"
    files = sorted(_files(source))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(source)}\0".encode() + file.read_bytes() + b"\0")
    number = re.search(r'const Version = "(.*)"', (source / "doc.go").read_text())[1]
    version = f"v{number}-packed.h{digest.hexdigest()[:12]}"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.writestr(f"{MODULE}@{version}/{file.relative_to(source)}", file.read_bytes())
    shutil.rmtree(home, ignore_errors=True)
    versions.mkdir(parents=True)
    (versions / "list").write_text(f"{version}\n")
    (versions / f"{version}.info").write_text(json.dumps({"Version": version, "Time": "2026-01-01T00:00:00Z"}))
    (versions / f"{version}.mod").write_bytes((source / "go.mod").read_bytes())
    (versions / f"{version}.zip").write_bytes(packed.getvalue())
    return Path(home)


def _files(source):
    """All files of the module. A folder with a go.mod of its own is another module."""
    for folder, names, files in os.walk(source):
        here = Path(folder)
        names[:] = [name for name in names if not name.startswith(".") and not (here / name / "go.mod").exists()]
        yield from (here / file for file in files if not file.startswith("."))
