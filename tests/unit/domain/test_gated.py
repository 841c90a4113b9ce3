"""What stands behind a gate, and so does not change."""

from __future__ import annotations

import pytest

from arcentra_server.domain.gated import is_behind_a_gate
from tests.support.ledger_world import World


@pytest.mark.parametrize(
    ("shape", "behind"),
    [
        (". . | .", ""),
        # A gate before a stage: its jobs, and those of later stages.
        ("& . | .", "ab"),
        (". | & . | .", "bc"),
        (". | .", ""),
        # A gate after a job: what needs it, what needs that, and later stages; not the job itself, nor what is beside it.
        (".[gate] . .[needs=a] .[needs=c] | .", "cde"),
        (". | .[gate] .", ""),
        (". .[gate] .[needs=a] | .", "d"),
    ],
)
def test_jobs_behind_a_gate(shape: str, behind: str) -> None:
    world = World(shape)
    rows = world.store.rows
    found = [
        name for name in world.job_ids if is_behind_a_gate(world.job(name), rows.jobs, rows.stages.values(), rows.needs)
    ]
    assert "".join(found) == behind


def test_decided_gate_is_one_all_the_same() -> None:
    world = World(". | & .")
    world.finish("x", "a1")
    world.approve("|1")
    rows = world.store.rows
    assert is_behind_a_gate(world.job("b"), rows.jobs, rows.stages.values(), rows.needs)
