from __future__ import annotations

from pathlib import Path

from tests.tools.conftest import Plant
from tools.check_dead_code import faults

CODE = """
LIMIT = 3
COLOUR = "red"


class Box:
    size = 3

    def open(self) -> int:
        return LIMIT

    def lock(self) -> None: ...


def only_tested() -> Box:
    return Box()


def used() -> int:
    return Box().open()
"""


def test_what_nothing_or_only_a_test_uses_is_named(tree: Path, plant: Plant) -> None:
    plant("src/box.py", CODE)
    plant("tools/main.py", "from box import used\n\nprint(used())\n")
    plant("tests/support.py", "def left_behind() -> None: ...\n")
    plant("tests/test_box.py", "from box import only_tested\n\ndef test_box() -> None:\n    assert only_tested()\n")
    assert list(faults(tree, {})) == [
        "src/box.py:3: unused variable 'COLOUR'",
        "src/box.py:12: unused method 'lock'",
        "src/box.py:15: unused function 'only_tested'",
        "tests/support.py:1: unused function 'left_behind'",
    ]


def test_stubs_and_frameworks_count_as_users(tree: Path, plant: Plant) -> None:
    plant("src/arcentra_api/a_pb2_grpc.py", "def add(servicer):\n    return servicer.Heartbeat\n")
    plant("src/a.py", "class S:\n    def Heartbeat(self) -> None: ...\n\n\nprint(S())\n")
    plant("src/tables.py", "from sqlalchemy import MetaData, Table\n\njobs = Table('jobs', MetaData())\n")
    plant("src/lazy.py", "def __getattr__(name: str) -> object: ...\n")
    plant("src/b.py", "from typer import Typer\n\napp = Typer()\n\n\n@app.command()\ndef show() -> None: ...\n")
    assert list(faults(tree, {})) == []


def test_an_allowed_name_passes_and_a_stale_one_is_named(tree: Path, plant: Plant) -> None:
    plant("src/a.py", "def intercept() -> None: ...\n")
    allowed = {"intercept": "the server calls it", "gone": "was called once"}
    assert list(faults(tree, allowed)) == ["tools/vulture_allow.py: gone is allowed but not found any more"]
