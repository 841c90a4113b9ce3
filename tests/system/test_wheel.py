"""The wheel holds what an installed server needs."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.postgres import REPOSITORY

pytestmark = pytest.mark.slow


def test_the_wheel_holds_the_programs_and_the_migrations(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    [path] = tmp_path.glob("*.whl")
    with ZipFile(path) as wheel:
        names = set(wheel.namelist())
        [entry_points] = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        parser = ConfigParser()
        parser.read_string(wheel.read(entry_points).decode())
    scripts = dict(parser["console_scripts"])
    assert set(scripts) == {"arcentra-server", "arcentra-agent", "arcentra"}
    modules = {target.partition(":")[0].replace(".", "/") + ".py" for target in scripts.values()}
    assert modules <= names
    revisions = {
        f"arcentra_server/migrations/versions/{file.name}" for file in REPOSITORY.glob("migrations/versions/*.py")
    }
    assert revisions
    assert revisions | {"arcentra_server/migrations/env.py"} <= names
    packages = {"arcentra_api", "arcentra_server", "arcentra_agent", "arcentra_cli"}
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == packages
    sources = {str(file.relative_to(REPOSITORY / "src")) for file in REPOSITORY.glob("src/arcentra_*/**/*.py")}
    assert sources <= names
