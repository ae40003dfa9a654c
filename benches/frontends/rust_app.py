"""Builds the application in Rust, with the packed client package."""

from packages import call, rust_package


def build(source, target, profile):
    """Returns the program. Cargo compiles again only what has changed."""
    command = ["cargo", "build", "--quiet", "--locked", "--profile", profile, "--manifest-path", source / "Cargo.toml"]
    # The lock file has the package without where it comes from.
    command += ["--config", f"patch.crates-io.sessiond-client.path='{rust_package()}'", "--target-dir", target]
    call(*command)
    return target / ("debug" if profile == "dev" else profile) / "frontend"
