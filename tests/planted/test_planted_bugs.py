"""The harness of faults finds each planted bug: what is never seen to fail proves nothing.

Each patch is applied to a copy of `src`, a server is run from the copy in a small story with faults, and the checker has
to report the promises that the patch names. The same stories without a patch have to be clean.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.field import Field
from tests.planted.patches import PlantedBug, planted_bugs
from tests.planted.scenarios import SCENARIOS
from tests.support.fault_checker import QUIET_SECONDS, quiet, violations

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.planted, pytest.mark.timeout(600)]
BUGS = planted_bugs()
# What such a bug has stopped does not go on, however long one waits.
STUCK_SECONDS = 20.0


@pytest.mark.parametrize("bug", BUGS, ids=[bug.path.stem for bug in BUGS])
async def test_planted_bug_is_found(field: Field, tree: Path, bug: PlantedBug) -> None:
    bug.plant(tree)
    await SCENARIOS[bug.scenario](field)
    patience = STUCK_SECONDS if bug.stuck else QUIET_SECONDS
    found = violations(await quiet(field.database, field.journals, field.history, within=patience))
    missed = bug.promises - {fault.partition(":")[0] for fault in found}
    assert not missed, f"{bug.what}\nNobody noticed that this breaks {sorted(missed)}. Found: {found[:20]}"


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
async def test_nothing_is_found_where_no_bug_is_planted(field: Field, scenario: str) -> None:
    await SCENARIOS[scenario](field)
    await field.check()
