"""The Java classes, compiled when they are needed: who installs mossnet-tg need not have a JDK."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from mossnet_tg.errors import MossnetError
from mossnet_tg.targets.cross.toolchain import must_run
from mossnet_tg.targets.java.stored import stored

HERE = Path(__file__).parent
SOURCES = tuple(sorted(HERE.glob("org/mossnet/*.java")))
# What Android's tools take of any age. A JDK from 21 on warns that it is old.
_OPTIONS = ("--release", "8", "-encoding", "UTF-8", "-proc:none", "-Xlint:all", "-Xlint:-options")


def classes_jar() -> bytes:
    """The classes as an archive. Raises MossnetError where there is no compiler, or it fails."""
    with tempfile.TemporaryDirectory() as folder:
        must_run("compiling the Java classes", [_javac(), *_OPTIONS, "-d", folder, *map(str, SOURCES)])
        found = sorted(Path(folder).rglob("*.class"))
        return stored({path.relative_to(folder).as_posix(): path.read_bytes() for path in found})


def _javac() -> str:
    home = os.environ.get("JAVA_HOME")
    path = shutil.which("javac", path=str(Path(home, "bin")) if home else None)
    if not path:
        where = f"in {home}/bin (JAVA_HOME)" if home else "here"
        raise MossnetError(f"no javac {where} to compile the Java classes with", "`apt install default-jdk-headless`")
    return path
