"""Anything that can happen to runs, in any order: what must hold holds after each change, and every run can be finished.

Hypothesis chooses each thing, so that what fails shrinks; `test_ledger_walks.py` throws dice, and gets further. Each time
the tests run, that is 660 examples of what may happen to random graphs of jobs: 210 here, 450 there.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.property.chaos import OFTEN, Chaos, Chosen, end_all
from tests.property.run_settings import run_settings
from tests.property.run_shapes import rivals, runs
from tests.support.ledger_world import World, new_store

pytestmark = pytest.mark.timeout(600)  # what fails is made smaller for some minutes
_MOODS = st.frozensets(st.sampled_from(sorted(OFTEN)), min_size=3)


class RunMachine(RuleBasedStateMachine):
    """Runs in one store, of each of which anything may happen."""

    shapes: st.SearchStrategy[list[str]] = runs().map(lambda shape: [shape])
    chaos: tuple[Chaos, ...] = ()
    data: st.DataObject

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.data = data
        store = new_store()
        worlds = [World(shape, store) for shape in data.draw(self.shapes, "shapes")]
        moods = data.draw(_MOODS, "moods")
        self.chaos = tuple(Chaos(world, self._choose, moods) for world in worlds)

    @rule(data=st.data())
    def happens(self, data: st.DataObject) -> None:
        self.data = data
        going = [number for number, one in enumerate(self.chaos) if not one.over]
        if going:
            self.chaos[self._choose(going, "run")].happens()

    def teardown(self) -> None:
        worlds = [one.world for one in self.chaos]
        if all(world.sound for world in worlds):  # else it is said already
            end_all(worlds)

    def _choose(self, options: Sequence[Chosen], what: str) -> Chosen:
        return self.data.draw(st.sampled_from(options), what) if len(options) > 1 else options[0]


class RivalMachine(RunMachine):
    """Two or three runs that want the same keys."""

    shapes = rivals()


def test_anything_may_happen_to_a_run() -> None:
    run_state_machine_as_test(RunMachine, settings=run_settings(150, 40))


def test_anything_may_happen_to_runs_that_want_the_same_keys() -> None:
    run_state_machine_as_test(RivalMachine, settings=run_settings(60, 40))
