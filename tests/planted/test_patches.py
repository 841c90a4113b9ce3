"""Each planted bug can still be planted: whoever changes what a patch changes learns of it here, in no time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.planted.patches import PatchFault, PlantedBug, planted_bugs
from tests.planted.scenarios import SCENARIOS
from tests.support.fault_checker import PROMISES
from tests.support.postgres import REPOSITORY

BUGS = planted_bugs()
SOURCE = "a = 1\nb = 2\n"
PATCH = "P1: b is wrong.\nScenario: agents_die\n\n--- a/src/one.py\n+++ b/src/one.py\n@@ -1,2 +1,2 @@\n a = 1\n-b = 2\n+b = 3\n"


def written(folder: Path, patch: str, source: str = SOURCE) -> PlantedBug:
    (folder / "src").mkdir()
    (folder / "src" / "one.py").write_text(source)
    path = folder / "01-b.patch"
    path.write_text(patch)
    return PlantedBug.read(path)


@pytest.mark.parametrize("bug", BUGS, ids=[bug.path.stem for bug in BUGS])
def test_each_patch_applies_to_the_source(tree: Path, bug: PlantedBug) -> None:
    bug.plant(tree)
    files = [path.relative_to(tree) for path in (tree / "src" / "arcentra_server").rglob("*.py")]
    changed = [path for path in files if (tree / path).read_bytes() != (REPOSITORY / path).read_bytes()]
    assert changed
    for path in changed:
        compile((tree / path).read_text(), path, "exec")


def test_each_bug_names_promises_and_a_scenario_that_there_are() -> None:
    assert {bug.scenario for bug in BUGS} == SCENARIOS.keys()
    assert {promise for bug in BUGS for promise in bug.promises} <= PROMISES.keys()


def test_there_are_as_many_bugs_as_were_promised_and_few_of_one_kind() -> None:
    assert len(BUGS) >= 15
    # The database itself keeps P3: no bug in the source makes two leases of a step run.
    assert {promise for bug in BUGS for promise in bug.promises} >= PROMISES.keys() - {"P3"}


def test_a_patch_is_planted_in_the_copy(tmp_path: Path) -> None:
    bug = written(tmp_path, PATCH)
    bug.plant(tmp_path)
    assert (tmp_path / "src" / "one.py").read_text() == "a = 1\nb = 3\n"
    assert bug == PlantedBug(bug.path, frozenset({"P1"}), "b is wrong.", "agents_die", stuck=False)


def test_a_patch_that_no_longer_applies_says_so(tmp_path: Path) -> None:
    bug = written(tmp_path, PATCH, "a = 1\nb = 4\n")
    with pytest.raises(PatchFault, match=r"01-b.patch no longer applies to src, write it anew: b is wrong."):
        bug.plant(tmp_path)


def test_a_patch_without_a_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PatchFault, match=r"01-b.patch does not begin with the two lines"):
        written(tmp_path, PATCH.partition("\n")[2])
