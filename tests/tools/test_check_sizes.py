from __future__ import annotations

from pathlib import Path

from tests.tools.conftest import Plant
from tools.check_sizes import faults


def test_a_long_module_function_and_record_are_named(tree: Path, plant: Plant) -> None:
    plant("src/long.py", "A = 1\n" * 501)
    plant("src/deep.py", "class C:\n    async def f(self) -> None:\n" + "        pass\n" * 80)
    plant("docs/adr/0001-x.md", "line\n" * 51)
    assert list(faults(tree)) == [
        "src/deep.py: line 2: f has 81 lines, 80 is the limit",
        "src/long.py: 501 lines, 500 asks for a split",
        "docs/adr/0001-x.md: 51 lines, 50 is the limit of a record",
    ]


def test_what_is_within_the_limits_generated_or_ignored_passes(tree: Path, plant: Plant) -> None:
    plant("src/short.py", "def f() -> None:\n" + "    pass\n" * 79)
    plant("src/arcentra_api/x_pb2.py", "A = 1\n" * 900)
    plant("migrations/versions/0001_x.py", "A = 1\n" * 900)
    plant("build/long.py", "A = 1\n" * 900)
    plant(".gitignore", "build/\n")
    plant("docs/long.md", "line\n" * 900)
    plant("docs/adr/0001-x.md", "line\n" * 50)
    assert list(faults(tree)) == []
