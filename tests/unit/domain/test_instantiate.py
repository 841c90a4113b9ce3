"""What a run is made of."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from uuid import UUID

import pytest

from arcentra_server.domain.definition import GitSource, JobSpec, PipelineSpec, StageSpec, StepSpec
from arcentra_server.domain.instantiate import NewRun, Trigger, instantiate
from arcentra_server.domain.selectors import ANY_AGENT, Operator, Selector, Term
from arcentra_server.domain.states import TriggerType

LINUX = Selector((Term("os", Operator.IN, ("linux",)),))
GPU = Selector((Term("gpu", Operator.EXISTS),))
BUILD = StepSpec("build", uses="shell", env={"B": "step"}, continue_on_error=True, timeout_ms=5)
MANUAL = Trigger(TriggerType.MANUAL, "alice")


def ids() -> Iterator[UUID]:
    return (UUID(int=number) for number in count(1))


def run_of(*stages: StageSpec, trigger: Trigger = MANUAL, variables: dict[str, str] | None = None) -> NewRun:
    made = ids()
    return instantiate(
        PipelineSpec(stages, variables or {}),
        trigger,
        pipeline_id=UUID(int=999),
        namespace="team",
        spec_version=3,
        new_id=lambda: next(made),
    )


def one_job(job: JobSpec) -> StageSpec:
    return StageSpec("only", (job,))


def test_every_id_is_new() -> None:
    run = run_of(StageSpec("one", (JobSpec("a", (BUILD,)), JobSpec("b", (BUILD,)))), one_job(JobSpec("c", (BUILD,))))
    made = [run.id, *(job.id for job in run.jobs), *(step.id for _, step in run.steps())]
    assert len(set(made)) == len(made) == 7


def test_jobs_are_numbered_through_the_stages() -> None:
    run = run_of(
        StageSpec("one", (JobSpec("a", (BUILD,)), JobSpec("b", (BUILD,)))), StageSpec("two", (JobSpec("c", (BUILD,)),))
    )
    assert [(job.name, job.stage_index, job.index) for job in run.jobs] == [("a", 0, 0), ("b", 0, 1), ("c", 1, 2)]
    assert run.stages == (("one", 2), ("two", 1))


def test_env_of_the_step_wins_over_job_over_trigger_over_pipeline() -> None:
    trigger = Trigger(TriggerType.MANUAL, "alice", "main", "abc", {"B": "trigger", "C": "trigger", "D": "trigger"})
    job = JobSpec("a", (BUILD,), env={"B": "job", "C": "job"})
    run = run_of(one_job(job), trigger=trigger, variables=dict.fromkeys("BCDE", "pipeline"))
    [(_, step)] = run.steps()
    expected = {"B": "step", "C": "job", "D": "trigger", "E": "pipeline"}
    assert expected.items() <= step.env.items()
    assert run.variables == {"B": "trigger", "C": "trigger", "D": "trigger", "E": "pipeline"}


@pytest.mark.parametrize(
    ("of_job", "of_step", "selector", "own"),
    [
        (None, None, ANY_AGENT, False),
        (LINUX, None, LINUX, False),
        (LINUX, GPU, GPU, True),
        (LINUX, ANY_AGENT, ANY_AGENT, True),
    ],
)
def test_selector(of_job: Selector | None, of_step: Selector | None, selector: Selector, own: bool) -> None:
    run = run_of(one_job(JobSpec("a", (BUILD, StepSpec("test", uses="shell", selector=of_step)), selector=of_job)))
    job, step = run.jobs[0], run.jobs[0].steps[1]
    assert (job.selector, step.selector, step.own_selector) == (of_job or ANY_AGENT, selector, own)
    assert (step.workspace != str(job.id)) == own


def test_steps_share_the_workspace_of_their_job() -> None:
    run = run_of(one_job(JobSpec("a", (BUILD, StepSpec("test", uses="shell")))))
    assert {step.workspace for _, step in run.steps()} == {str(run.jobs[0].id)}


def test_step_keeps_what_its_definition_says() -> None:
    [(_, step)] = run_of(one_job(JobSpec("a", (BUILD,)))).steps()
    assert (step.name, step.uses, step.continue_on_error, step.timeout_ms) == ("build", "shell", True, 5)


def test_source_becomes_the_first_step() -> None:
    run = run_of(one_job(JobSpec("a", (BUILD,), source=GitSource("https://example.invalid/r.git", "main"))))
    clone, build = run.jobs[0].steps
    assert (clone.name, clone.uses, clone.action, clone.index, build.index) == ("source", "git", "clone", 0, 1)
    assert clone.args == {"repo": "https://example.invalid/r.git", "branch": "main"}


def test_trigger_says_what_is_cloned() -> None:
    trigger = Trigger(TriggerType.EVENT, "hook", branch="topic", commit_sha="abc")
    run = run_of(one_job(JobSpec("a", (), source=GitSource("r", "main"))), trigger=trigger)
    assert run.jobs[0].steps[0].args == {"repo": "r", "branch": "topic", "commit": "abc"}
