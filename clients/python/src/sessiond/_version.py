"""The version, which is the daemon's. `pyproject.toml` has it too; a test compares the three."""

VERSION = "0.1.0"
