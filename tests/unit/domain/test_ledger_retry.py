"""Run a job again; add steps and jobs to a run."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import pytest

from arcentra_server.db.engine import Tx, new_id
from arcentra_server.db.execution import load_stage
from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import JobState, Resource, RunState, StageState, Waiting
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import RunStatus
from arcentra_server.domain.states import StepStatus as S
from tests.support.ledger_store import QueueRow
from tests.support.ledger_world import World, finish_all

Key = TypeVar("Key")
Value = TypeVar("Value")


def test_retry_makes_new_attempts_of_all_steps_of_the_job() -> None:
    world = World("..")
    world.finish("x", "a1")
    world.finish("x", "a2", status=S.FAILED)
    old = [step.id for step in world.steps("a")]
    world.retry("a2")
    assert (world.states(), [step.attempt for step in world.steps("a")]) == ("QP", [2, 2])
    assert [world.store.rows.steps[step_id].status for step_id in old] == [S.SUCCESS, S.FAILED]


def test_retry_may_go_to_another_agent() -> None:
    world = World("..")
    world.finish("x", "a1", status=S.FAILED)
    world.retry("a1")
    assert (world.job("a").agent_id, world.queued("a1")) == (None, QueueRow(None, held=False))
    world.finish("y", "a1", "a2")
    assert world.run.status is RunStatus.SUCCESS


def test_retry_opens_job_and_run_again() -> None:
    world = World("..")
    world.start("x", "a1")
    world.report("x", "a1", S.FAILED, exit_code=3, message="boom")
    world.retry("a1")
    job, run = world.job("a"), world.run
    assert (job.status, job.completed_steps, job.failed_steps, job.current_step) == (RunStatus.PENDING, 0, 0, 0)
    assert (job.exit_code, job.error_message) == (0, "")
    assert (run.status, run.completed_jobs, run.failed_jobs, world.open_jobs) == (RunStatus.RUNNING, 0, 0, {0: 1})


def test_retry_forgets_the_failure_of_the_job_alone() -> None:
    world = World(". .")
    world.finish("x", "a1", "b1", status=S.FAILED)
    world.retry("a1")
    finish_all(world, "x")
    assert (world.states(), world.run.status, world.run.failed_jobs) == ("S F", RunStatus.FAILED, 1)


def test_retry_gives_skipped_jobs_their_turn_again() -> None:
    world = World(". | .. | .")
    world.finish("x", "a1", status=S.FAILED)
    world.retry("a1")
    assert world.states() == "Q PP P"
    finish_all(world, "x")
    assert (world.states(), world.run.status) == ("S SS S", RunStatus.SUCCESS)


def test_retry_that_fails_again_skips_them_again() -> None:
    world = World(". | .")
    world.finish("x", "a1", status=S.FAILED)
    world.retry("a1")
    world.finish("x", "a1", status=S.FAILED)
    assert (world.states(), world.run.status, world.run.completed_jobs) == ("F x", RunStatus.FAILED, 2)


def test_retry_of_a_stopped_run_ends_the_stop() -> None:
    world = World(".")
    world.stop()
    world.retry("a1")
    finish_all(world, "x")
    assert (world.run.status, world.run.stopped) == (RunStatus.SUCCESS, False)


def test_report_of_the_old_attempt_leaves_the_new_one() -> None:
    world = World(".")
    world.finish("x", "a1", status=S.FAILED)
    old = world.step("a1").id
    world.retry("a1")
    world.claim("x", "a1")
    assert world.store.rows.steps[old].status is S.FAILED
    assert world.states() == "Q"


def test_retry_of_a_job_that_has_not_ended_is_refused() -> None:
    world = World(".")
    with pytest.raises(InvalidTransition):
        world.retry("a1")


def test_retry_does_not_undo_a_stop_in_progress() -> None:
    world = World(". .")
    world.start("x", "a1")
    world.stop()
    with pytest.raises(InvalidTransition):
        world.retry("b1")
    world.report("x", "a1", S.CANCELLED)
    assert world.run.status is RunStatus.CANCELLED


def try_retry(world: World, step: str) -> None:
    """Retry a step where it may be possible; what follows has to hold either way."""
    try:
        world.retry(step)
    except InvalidTransition:
        return


def test_retry_of_a_cancelled_job_waits_for_the_turn_of_its_stage() -> None:
    world = World(". | .")
    world.start("x", "a1")
    world.cancel_job("b")
    try_retry(world, "b1")
    assert world.states() in {"R P", "R C"}
    finish_all(world, "x")
    assert world.run.status.terminal


@pytest.mark.parametrize("then", [S.SUCCESS, S.FAILED])
def test_retry_while_the_next_stage_runs_leaves_its_steps_alone(then: S) -> None:
    world = World(". | ..")
    world.finish("x", "a1")
    world.start("y", "b1")
    try_retry(world, "a1")
    if world.step("a1").status is S.QUEUED:
        world.finish("x", "a1", status=then)
    assert world.step("b1").status is S.RUNNING
    assert world.step("b2").status in (S.PENDING, S.SKIPPED)
    finish_all(world, "x")
    assert world.run.status.terminal
    assert world.run.completed_jobs == world.run.total_jobs


def test_retry_before_a_stage_that_was_cancelled_reaches_the_stages_behind_it() -> None:
    world = World(". | . | .")
    world.start("x", "a1")
    world.cancel_job("b")
    world.report("x", "a1", S.SUCCESS)
    assert (world.states(), world.run.status) == ("S C x", RunStatus.CANCELLED)
    world.retry("a1")
    finish_all(world, "x")
    assert (world.run.status.terminal, world.run.completed_jobs) == (True, 3)


def test_retry_of_a_stage_before_those_that_succeeded_ends_the_run() -> None:
    world = World(". | .")
    world.finish("x", "a1", "b1")
    world.retry("a1")
    assert (world.states(), world.run.status) == ("Q S", RunStatus.RUNNING)
    world.finish("x", "a1")
    assert (world.states(), world.run.status) == ("S S", RunStatus.SUCCESS)


# Jobs that need others


def test_retry_gives_what_needs_the_job_its_turn_again() -> None:
    world = World(". .[needs=a] .[needs=b] .")
    world.finish("x", "a1", "d1", status=S.FAILED)
    world.retry("a1")
    assert (world.states(), world.job("b").open_needs, world.job("c").open_needs) == ("Q P P F", 1, 1)
    finish_all(world, "x")
    assert (world.ends(), world.run.status) == ("SSSF", RunStatus.FAILED)


def test_retry_under_a_job_that_waits_for_another_one_too() -> None:
    world = World(". . .[needs=a,b]")
    world.finish("x", "a1", status=S.FAILED)
    world.retry("a1")
    assert world.job("c").open_needs == 2
    world.finish("y", "b1")
    assert world.states() == "Q S P"
    world.finish("x", "a1")
    assert world.states() == "S S Q"


def test_retry_of_a_job_that_was_cancelled_before_what_it_needs_ended() -> None:
    world = World(". .[needs=a]")
    world.start("x", "a1")
    world.cancel_job("b")
    world.retry("b1")
    assert (world.states(), world.job("b").open_needs, world.job("b").waits_for) == ("R P", 1, Waiting.NEEDS)
    world.report("x", "a1", S.FAILED)
    assert world.states() == "F x"


@pytest.mark.parametrize("more", ["", ";key=k", ";retry=2;delay=9"])
def test_nothing_is_retried_under_a_job_that_goes_on(more: str) -> None:
    world = World(f". .[needs=a;when=a{more}]")
    world.finish("x", "a1", status=S.FAILED)
    if "retry" in more:
        world.finish("x", "b1", status=S.FAILED)
    with pytest.raises(InvalidTransition, match="goes on"):
        world.retry("a1")
    finish_all(world, "x")
    world.retry("a1")
    assert (world.states(), world.ends()) == ("Q S", "-S")


def test_retry_of_a_run_runs_what_failed_and_what_was_skipped() -> None:
    world = World(". . .[needs=a] | . .[when=a] | .")
    world.finish("x", "a1", status=S.FAILED)
    world.finish("x", "b1", "e1")
    assert world.ends() == "FSxxSx"
    world.retry_run(everything=False)
    assert world.states() == "Q S P P S P"
    finish_all(world, "x")
    assert (world.ends(), world.run.status) == ("SSSSSS", RunStatus.SUCCESS)


def test_retry_of_everything_runs_everything() -> None:
    world = World(". .[needs=a] | .")
    finish_all(world, "x")
    world.retry_run(everything=True)
    assert (world.states(), world.run.completed_jobs) == ("Q P P", 0)
    finish_all(world, "x")
    assert (world.run.status, {job.attempt for job in map(world.job, "abc")}) == (RunStatus.SUCCESS, {2})


def test_retry_of_a_run_in_which_all_went_well_has_nothing_to_do() -> None:
    world = World(". .[when=n]")
    finish_all(world, "x")
    with pytest.raises(InvalidTransition, match="ended well"):
        world.retry_run(everything=False)


def test_retry_takes_the_outputs_of_the_attempt_before_away() -> None:
    world = World(". .[needs=a] .[needs=b;when=a]")
    finish_all(world, "x")
    assert world.job_ids["b"] in world.store.rows.outputs
    world.retry_run(everything=True)
    world.finish("x", "a1", status=S.FAILED)
    assert (world.ends(), world.job_ids["b"] in world.store.rows.outputs) == ("Fx-", False)


class _Counted(dict[Key, Value]):
    """Counts how often it was walked through."""

    walks = 0

    def values(self) -> Any:
        self.walks += 1
        return super().values()

    def items(self) -> Any:
        self.walks += 1
        return super().items()


def _failed_run(stages: int) -> tuple[Ledger, RunState]:
    """Return a run of one job a stage, of which the first failed."""
    run = RunState(new_id(), new_id(), RunStatus.FAILED, stages, stages, completed_jobs=stages, failed_jobs=1)
    ledger = Ledger(new_id, lambda _, __: True)
    ledger.jobs, ledger.stages = _Counted(), _Counted()
    ends = [RunStatus.FAILED, *[RunStatus.SKIPPED] * (stages - 1)]
    ledger.add_runs([run], [StageState(run.id, index, 0, end) for index, end in enumerate(ends)])
    ledger.add_jobs([JobState(new_id(), run.id, index, end, 1, 0, end) for index, end in enumerate(ends)], ())
    return ledger, run


def _walks(ledger: Ledger) -> int:
    assert isinstance(ledger.jobs, _Counted)
    assert isinstance(ledger.stages, _Counted)
    return ledger.jobs.walks + ledger.stages.walks


def test_retry_does_not_look_at_all_jobs_for_each_stage() -> None:
    walks = []
    for stages in (5, 50):
        ledger, run = _failed_run(stages)
        jobs = list(dict.values(ledger.jobs))
        ledger.reopen(run, jobs, (), {job.id: 0 for job in jobs})
        walks.append(_walks(ledger))
    assert walks[0] == walks[1]


async def test_turns_of_stages_do_not_look_at_all_jobs_and_stages_each_time() -> None:
    ledger, run = _failed_run(50)
    ledger.whole_runs.add(run.id)
    tx = cast("Tx", None)  # all is loaded: nothing is asked for
    for index in range(50):
        [job], upstream = await load_stage(tx, ledger, run.id, index)
        assert (job.stage_index, upstream) == (index, RunStatus.FAILED if index else RunStatus.SKIPPED)
    assert _walks(ledger) == 0


def test_retry_of_a_tolerated_failure() -> None:
    world = World(".[allow] | .")
    world.finish("x", "a1", status=S.FAILED)
    finish_all(world, "x")
    world.retry_run(everything=False)
    finish_all(world, "x")
    assert (world.ends(), world.run.status, world.run.failed_jobs) == ("SS", RunStatus.SUCCESS, 0)


def test_retry_after_the_time_of_the_run_was_over() -> None:
    world = World(". | .")
    world.time_out()
    world.retry_run(everything=False)
    assert (world.run.timed_out, world.run.status) == (False, RunStatus.RUNNING)
    finish_all(world, "x")
    assert world.run.status is RunStatus.SUCCESS


def test_retry_behind_a_failed_stage_is_for_what_has_a_condition() -> None:
    world = World(". | . .[when=a]")
    world.finish("x", "a1", status=S.FAILED)
    world.finish("x", "c1", status=S.FAILED)
    with pytest.raises(InvalidTransition, match="earlier stage failed"):
        world.retry("b1")
    world.retry("c1")
    assert world.states() == "F x Q"


# What is added


def test_added_step_follows_the_others() -> None:
    world = World(".")
    world.start("x", "a1")
    world.add_step("a")
    assert (world.states(), world.job("a").total_steps) == ("RP", 2)
    world.report("x", "a1", S.SUCCESS)
    assert world.holder("a2") == "x"


def test_step_added_to_a_job_that_fails_is_skipped() -> None:
    world = World(".")
    world.start("x", "a1")
    world.add_step("a")
    world.report("x", "a1", S.FAILED)
    assert (world.states(), world.run.status) == ("Fx", RunStatus.FAILED)


def test_added_job_is_part_of_the_open_stage() -> None:
    world = World(". | . | .")
    world.finish("x", "a1")
    name = world.add_job()
    assert (world.states(), world.run.total_jobs, world.open_jobs) == ("S Q P Q", 4, {0: 0, 1: 2, 2: 1})
    world.finish("x", "b1")
    assert world.step("c1").status is S.PENDING
    world.finish("y", f"{name}1")
    assert world.step("c1").status is S.QUEUED


def test_creation_of_what_is_added_is_told() -> None:
    world = World(".")
    world.add_job()
    new = [event for event in world.store.rows.events if event.job_id == world.job("b").id and event.previous is None]
    assert [(event.resource, event.status) for event in new] == [(Resource.JOB, "PENDING"), (Resource.STEP, "PENDING")]


def test_step_added_to_a_paused_run_is_held() -> None:
    world = World(".")
    world.pause()
    world.add_job()
    assert world.queued("b1") == QueueRow(None, held=True)
