"""Random walks of runs: what happens is decided by dice, evenly and for long; see `test_ledger_machine.py`.

450 of them each time, each a random schedule of random graphs of jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.property.chaos import OFTEN, Chaos, Chosen, end_all
from tests.property.run_settings import run_settings
from tests.property.run_shapes import gated, rivals, runs
from tests.support.ledger_world import World, new_store

pytestmark = pytest.mark.timeout(600)  # what fails is made smaller for some minutes
_SEEDS = st.integers(0, 2**32 - 1)


def walk(shapes: Sequence[str], seed: int, steps: int, moods: Sequence[str] = ()) -> None:
    """Let things happen to runs as dice want it, then end them. `moods` empty: any."""
    dice, store = Random(seed), new_store()  # noqa: S311 - a seed that is told is what is wanted here

    def choose(options: Sequence[Chosen], _: str) -> Chosen:
        return dice.choice(options)

    moods = moods or dice.sample(sorted(OFTEN), dice.randint(2, len(OFTEN)))
    chaos = [Chaos(World(shape, store), choose, moods) for shape in shapes]
    for _ in range(steps):
        going = [one for one in chaos if not one.over]
        if going:
            dice.choice(going).happens()
    end_all([one.world for one in chaos])


@run_settings(250)
@given(shape=runs(), seed=_SEEDS)
def test_dice_decide_what_happens_to_a_run(shape: str, seed: int) -> None:
    walk([shape], seed, steps=80)


@run_settings(100)
@example(shape=". | & .[gate] . | .", seed=3)  # one of two jobs that were skipped at a gate is retried
@example(shape="& .[gate] . | .", seed=79)
@given(shape=gated(), seed=_SEEDS)
def test_dice_decide_what_happens_at_gates_that_are_asked_again(shape: str, seed: int) -> None:
    walk([shape], seed, steps=60, moods=("retry",))


@run_settings(100)
@given(shapes=rivals(), seed=_SEEDS)
def test_dice_decide_what_happens_to_runs_that_want_the_same_keys(shapes: list[str], seed: int) -> None:
    walk(shapes, seed, steps=100)
