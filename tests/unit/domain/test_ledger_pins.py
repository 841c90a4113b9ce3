"""The commit that the clones of a run keep to, when its trigger asks for a branch or a commit of one repository."""

from __future__ import annotations

from arcentra_server.domain.execution import ASKED, FIRST, OWN
from arcentra_server.domain.states import FailureReason, RunStatus
from arcentra_server.domain.states import StepStatus as S
from tests.support.ledger_world import World


def test_clone_of_another_repository_does_not_say_what_the_commit_of_the_run_is() -> None:
    world = World(".[source=r] .[source=own] .[source=r]")
    world.run.pins = {OWN: ""}
    world.start("x", "a1", "b1", "c1")
    world.report("x", "a1", S.SUCCESS, commit="of another")
    assert world.run.commit_sha == ""
    world.report("x", "b1", S.SUCCESS, commit="of its own")
    assert world.run.commit_sha == "of its own"
    assert world.run.pins == {OWN: "of its own", "r": "of another"}
    # All the same the others keep to one commit too.
    world.report("x", "c1", S.SUCCESS, commit="moved")
    assert (world.job("c").attempt, world.run.commit_sha) == (2, "of its own")


def test_first_clone_of_a_branch_that_was_asked_for_decides_which_commit() -> None:
    world = World(".[source=own] .[source=own]")
    world.run.pins = {OWN: ""}
    world.start("x", "a1", "b1")
    world.report("x", "a1", S.SUCCESS, commit="c1")
    world.report("x", "b1", S.SUCCESS, commit="c2")
    assert (world.run.pins, world.run.commit_sha, world.job("b").attempt) == ({OWN: "c1"}, "c1", 2)


def test_run_that_was_asked_for_nothing_has_the_commit_of_its_first_source() -> None:
    # What stands before the colon is the repository that the run is about.
    world = World(".[source=own:main] .[source=lib] .[source=own:main] .[source=own:main]")
    world.run.pins = {FIRST: ""}
    world.start("x", "a1", "b1", "c1", "d1")
    world.report("x", "b1", S.SUCCESS, commit="of lib")
    assert world.run.commit_sha == ""
    world.report("x", "c1", S.SUCCESS, commit="c1")
    world.report("x", "a1", S.SUCCESS, commit="c1")
    world.report("x", "d1", S.SUCCESS, commit="moved")
    assert (world.run.commit_sha, world.run.pins) == ("c1", {FIRST: "", "own:main": "c1", "lib": "of lib"})
    assert [world.job(name).attempt for name in "acd"] == [1, 1, 2]


def test_sources_of_one_repository_on_two_branches_keep_each_to_its_own_commit() -> None:
    world = World(".[source=own:main] .[source=own:next]")
    world.run.pins = {FIRST: ""}
    world.start("x", "a1", "b1")
    world.report("x", "a1", S.SUCCESS, commit="c1")
    world.report("x", "b1", S.SUCCESS, commit="c2")
    assert (world.run.commit_sha, world.job("b").attempt) == ("c1", 1)
    assert world.run.pins == {FIRST: "", "own:main": "c1", "own:next": "c2"}


def test_source_that_shares_its_commit_with_the_first_one_leaves_it_to_that_one_to_say_so() -> None:
    world = World(".[source=own:main] .[source=lib]")
    world.run.pins = {FIRST: "", "own:main": "c1"}
    world.start("x", "a1")
    world.report("x", "a1", S.SUCCESS, commit="c1")
    assert world.run.commit_sha == "c1"


def test_clone_that_does_not_keep_to_the_commit_that_it_was_told_fails() -> None:
    world = World(".[source=r] .[source=r;retry=2;on=validation]")
    world.start("x", "a1", "b1")
    world.report("x", "a1", S.SUCCESS, commit="c1")
    for commit in ("c2", "c3", "c4"):
        assert world.job("b").status is not RunStatus.FAILED
        world.start("x", "b1")
        world.report("x", "b1", S.SUCCESS, commit=commit)
    step = world.step("b1")
    assert (world.ends()[1], step.status, step.failure_reason) == ("F", S.FAILED, FailureReason.VALIDATION)
    assert step.error_message.startswith("the agent cloned commit c4, though it was told to clone c1")
    assert world.job("b").attempt == 3, "one that was not told, and two by the rule"


def test_clone_of_a_commit_that_was_asked_for_is_not_compared() -> None:
    # What was asked for may be a part of its id, or a tag.
    world = World(".[source=own] .[source=r]")
    world.run.pins, world.run.commit_sha = {ASKED: "c1"}, "c1"
    world.start("x", "a1", "b1")
    world.report("x", "a1", S.SUCCESS, commit="c123")
    world.report("x", "b1", S.SUCCESS, commit="of another")
    assert (world.run.pins, world.run.commit_sha) == ({ASKED: "c1", "r": "of another"}, "c1")
    assert [world.job(name).attempt for name in "ab"] == [1, 1]
