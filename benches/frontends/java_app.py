"""Builds the application in Java, with the installed client packages."""

from packages import call, java_package


def build(source, target):
    """Returns the class path to start it with."""
    maven = ["mvn", "--batch-mode", "--no-transfer-progress", "--quiet", f"-Dmaven.repo.local={java_package()}"]
    call(*maven, f"-Dtarget={target}", "package", cwd=source)
    return f"{target / 'app.jar'}:{target / 'dependency'}/*"
