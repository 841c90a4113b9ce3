"""What a run is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from uuid import UUID

import pytest

from arcentra_server.domain.definition import (
    ApprovalSpec,
    ArtifactSpec,
    GitSource,
    JobSpec,
    MatrixSpec,
    PipelineSpec,
    RetrySpec,
    SourceAuth,
    StageSpec,
    StepSpec,
    TargetSpec,
)
from arcentra_server.domain.instantiate import NewJob, NewRun, NewStage, NewStep, Trigger, instantiate
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
    assert run.stages == (NewStage("one", 2), NewStage("two", 1))


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


def test_steps_with_a_selector_of_their_own_share_no_workspace() -> None:
    steps = tuple(StepSpec(name, uses="shell", selector=GPU) for name in "st")
    run = run_of(StageSpec("one", (JobSpec("a", steps), JobSpec("b", steps))))
    assert len({step.workspace for _, step in run.steps()}) == 4


def test_steps_share_the_workspace_of_their_job() -> None:
    run = run_of(one_job(JobSpec("a", (BUILD, StepSpec("test", uses="shell")))))
    assert {step.workspace for _, step in run.steps()} == {str(run.jobs[0].id)}


def test_step_keeps_what_its_definition_says() -> None:
    spec = StepSpec(
        "build",
        uses="shell",
        action="run",
        args={"script": "make"},
        continue_on_error=True,
        timeout_ms=5,
        run_on_agent=False,
        when="always()",
        image="python:3",
        artifacts=(ArtifactSpec("logs", "*.log", expire_days=3),),
    )
    [(_, step)] = run_of(one_job(JobSpec("a", (spec,)))).steps()
    kept = [name for name in StepSpec.__slots__ if name not in ("env", "selector", "when", "secrets")]
    assert {name: getattr(step, name) for name in kept} == {name: getattr(spec, name) for name in kept}
    assert step.condition == "always()"
    [(_, plain)] = run_of(one_job(JobSpec("a", (StepSpec("s", uses="shell"),)))).steps()
    assert (plain.timeout_ms, plain.continue_on_error, plain.run_on_agent, plain.kind) == (None, False, True, "")


def test_run_and_all_that_is_in_it_say_whose_they_are() -> None:
    run = run_of(one_job(JobSpec("a", (BUILD, StepSpec("test", uses="shell")))), one_job(JobSpec("b", (BUILD,))))
    assert (run.pipeline_id, run.namespace, run.spec_version, run.trigger) == (UUID(int=999), "team", 3, MANUAL)
    for job, step in run.steps():
        assert (step.run_id, step.job_id, step.pipeline_id) == (run.id, job.id, run.pipeline_id)
    trigger = Trigger(TriggerType.MANUAL, "ada", "main", "abc")
    of_run = {"ARCENTRA_BRANCH": "main", "ARCENTRA_COMMIT": "abc", "ARCENTRA_NAMESPACE": "team"}
    [(_, step)] = run_of(one_job(JobSpec("a", (StepSpec("s", uses="shell"),))), trigger=trigger).steps()
    assert step.env == of_run


def test_job_of_every_cell_keeps_the_rules_of_its_definition() -> None:
    job = JobSpec(
        "a",
        (BUILD,),
        when="always()",
        retry=RetrySpec(3, 5_000, ("timeout",)),
        priority=7,
        allow_failure=True,
        matrix=MatrixSpec((("n", (1, 2)),)),
        outputs={"v": "${{ steps.build.outputs.v }}"},
        concurrency="k",
        timeout_ms=9,
    )
    jobs = run_of(one_job(job)).jobs
    assert [(one.spec, one.timeout_ms, dict(one.cell)) for one in jobs] == [(job, 9, {"n": 1}), (job, 9, {"n": 2})]


def test_env_of_a_cell_is_evaluated_in_its_job() -> None:
    env = {"N": "${{ matrix.n }}", "PLAIN": "1"}
    run = run_of(one_job(JobSpec("a", (BUILD,), env=env, matrix=MatrixSpec((("n", (1, 2)),)))))
    found = [(step.templates and step.templates.env, step.env["PLAIN"], "N" in step.env) for _, step in run.steps()]
    assert found == [({"N": "${{ matrix.n }}"}, "1", False)] * 2


def test_source_becomes_the_first_step() -> None:
    run = run_of(one_job(JobSpec("a", (BUILD,), source=GitSource("https://example.invalid/r.git", "main"))))
    clone, build = run.jobs[0].steps
    assert (clone.name, clone.uses, clone.action, clone.index, build.index) == ("source", "git", "clone", 0, 1)
    assert clone.args == {"repo": "https://example.invalid/r.git", "branch": "main", "commit": ""}


def test_trigger_says_what_is_cloned() -> None:
    trigger = Trigger(TriggerType.EVENT, "hook", branch="topic", commit_sha="abc")
    run = run_of(one_job(JobSpec("a", (), source=GitSource("r", "main"))), trigger=trigger)
    assert run.jobs[0].steps[0].args == {"repo": "r", "branch": "topic", "commit": "abc"}


# Stages, needs and cells


def test_stage_keeps_its_gate() -> None:
    gate = ApprovalSpec(("ada",), needed=2)
    run = run_of(StageSpec("one", (JobSpec("a", (BUILD,)),), gate))
    assert run.stages == (NewStage("one", 1, gate),)


SYSTEMS = MatrixSpec(
    (("os", ("linux", "mac")), ("n", (1, 2))), include=({"os": "bsd"},), exclude=({"os": "mac", "n": 1},)
)


def test_each_cell_of_a_matrix_is_a_job_that_its_name_tells() -> None:
    run = run_of(one_job(JobSpec("a", (BUILD,), matrix=SYSTEMS)))
    assert [job.name for job in run.jobs] == ["a (linux, 1)", "a (linux, 2)", "a (mac, 2)", "a (bsd)"]
    assert [dict(job.cell) for job in run.jobs][2:] == [{"os": "mac", "n": 2}, {"os": "bsd"}]
    assert run.stages == (NewStage("only", 4),)
    assert {job.spec.name for job in run.jobs} == {"a"}
    assert len({step.id for _, step in run.steps()}) == 4
    assert {step.job_name for _, step in run.steps()} == {job.name for job in run.jobs}


def needs(run: NewRun) -> dict[str, list[str]]:
    names = {job.id: job.name for job in run.jobs}
    return {job.name: [names[need] for need in job.needs] for job in run.jobs}


def test_needs_are_job_runs() -> None:
    jobs = (
        JobSpec("c", (BUILD,), depends_on=("a", "b")),
        JobSpec("a", (BUILD,)),
        JobSpec("b", (BUILD,), depends_on=("a",)),
    )
    assert needs(run_of(StageSpec("one", jobs))) == {"c": ["a", "b"], "a": [], "b": ["a"]}


def test_job_needs_every_cell_and_every_cell_needs_a_job() -> None:
    pair = MatrixSpec((("n", (1, 2)),))
    jobs = (
        JobSpec("a", (BUILD,), matrix=pair),
        JobSpec("b", (BUILD,), depends_on=("a",)),
        JobSpec("c", (BUILD,), depends_on=("b", "a"), matrix=pair),
    )
    both = ["a (1)", "a (2)"]
    expected = {"a (1)": [], "a (2)": [], "b": both, "c (1)": ["b", *both], "c (2)": ["b", *both]}
    assert needs(run_of(StageSpec("one", jobs))) == expected


def test_jobs_of_one_name_in_two_stages_are_not_mixed_up() -> None:
    one = StageSpec("one", (JobSpec("a", (BUILD,)),))
    two = StageSpec("two", (JobSpec("a", (BUILD,)), JobSpec("b", (BUILD,), depends_on=("a",))))
    run = run_of(one, two)
    assert run.jobs[2].needs == (run.jobs[1].id,)


def test_selector_takes_the_values_of_its_cell() -> None:
    wanted = Selector((Term("os", Operator.IN, ("${{ matrix.os }}",)),))
    job = JobSpec("a", (BUILD,), selector=wanted, matrix=MatrixSpec((("os", ("linux", "mac")),)))
    run = run_of(one_job(job))
    expected = [(Term("os", Operator.IN, (value,)),) for value in ("linux", "mac")]
    assert [job.selector.terms for job in run.jobs] == [step.selector.terms for _, step in run.steps()] == expected


def test_job_takes_its_own_time_limit_or_that_of_the_server() -> None:
    stage = StageSpec("one", (JobSpec("a", (BUILD,), timeout_ms=5), JobSpec("b", (BUILD,))))
    made = ids()
    run = instantiate(
        PipelineSpec((stage,), timeout_ms=7),
        MANUAL,
        pipeline_id=UUID(int=999),
        namespace="team",
        spec_version=1,
        new_id=lambda: next(made),
        job_timeout_ms=9,
    )
    assert ([job.timeout_ms for job in run.jobs], run.timeout_ms) == ([5, 9], 7)


@pytest.mark.parametrize(
    ("job", "plain"),
    [
        (JobSpec("a", (BUILD, StepSpec("t", uses="shell", when="always()"))), True),
        (JobSpec("a", (BUILD,), allow_failure=True, priority=3, approval=ApprovalSpec()), True),
        (JobSpec("a", (BUILD,), when="success()"), False),
        (JobSpec("a", (BUILD,), concurrency="k"), False),
        (JobSpec("a", (StepSpec("t", uses="shell", when="always()"),)), False),
        (JobSpec("a", (StepSpec("t", uses="shell", env={"X": "${{ branch }}"}),)), False),
        (JobSpec("a", (StepSpec("t", uses="shell", secrets={"X": "x"}),)), False),
        (JobSpec("a", (BUILD,), source=GitSource("r")), False),
        (JobSpec("a", (BUILD,), target=TargetSpec("command")), True),
    ],
)
def test_run_starts_plainly_where_nothing_has_to_be_looked_at(job: JobSpec, plain: bool) -> None:
    assert run_of(one_job(job)).starts_plainly is plain
    assert not run_of(StageSpec("one", (job,), ApprovalSpec())).starts_plainly
    # What waits for its turn is looked at then.
    later = replace(job, name="b", depends_on=("z",))
    assert run_of(StageSpec("one", (JobSpec("z", (BUILD,)), later))).starts_plainly
    assert run_of(one_job(JobSpec("z", (BUILD,))), one_job(job)).starts_plainly


# Expressions, secrets, source and target


def only_step(job: JobSpec, *, trigger: Trigger = MANUAL, variables: dict[str, str] | None = None) -> NewStep:
    [(_, step)] = run_of(one_job(job), trigger=trigger, variables=variables).steps()
    return step


def test_what_has_to_be_evaluated_is_kept_apart() -> None:
    env = {"A": "plain", "B": "${{ branch }}"}
    step = only_step(
        JobSpec(
            "a",
            (StepSpec("s", uses="shell", args={"script": "echo ${{ commit }}"}, env={"C": "${{ run.id }}"}),),
            env=env,
        )
    )
    assert step.templates is not None
    assert step.templates.env == {"B": "${{ branch }}", "C": "${{ run.id }}"}
    assert step.templates.args == {"script": "echo ${{ commit }}"}
    assert (step.env["A"], step.env.keys() & {"B", "C"}) == ("plain", set())
    assert step.dynamic


def test_image_may_have_to_be_evaluated() -> None:
    step = only_step(JobSpec("a", (StepSpec("s", uses="shell", image="python:${{ matrix.v }}"),)))
    assert step.templates is not None
    assert (step.templates.image, step.templates.args, step.templates.env) == ("python:${{ matrix.v }}", None, {})


def test_step_without_expressions_has_nothing_to_evaluate() -> None:
    step = only_step(JobSpec("a", (StepSpec("s", uses="shell", args={"script": "echo $HOME"}, env={"A": "{{ }}"}),)))
    assert (step.templates, step.dynamic) == (None, False)


def test_variables_from_outside_are_never_evaluated() -> None:
    trigger = Trigger(TriggerType.EVENT, "hook", branch="${{ secrets.key }}", variables={"V": "${{ secrets.key }}"})
    step = only_step(JobSpec("a", (BUILD,)), trigger=trigger, variables={"W": "${{ branch }}"})
    assert (step.templates, step.dynamic, dict(step.secrets)) == (None, False, {})
    assert (step.env["V"], step.env["W"]) == ("${{ secrets.key }}", "${{ branch }}")
    assert step.env["ARCENTRA_BRANCH"] == "${{ secrets.key }}"


def test_variables_from_outside_are_not_evaluated_beside_texts_that_are() -> None:
    trigger = Trigger(TriggerType.EVENT, "hook", variables={"V": "${{ secrets.key }}"})
    spec = StepSpec("s", uses="shell", env={"E": "${{ branch }}"}, args={"script": "${{ commit }}"})
    step = only_step(
        JobSpec("a", (spec,), env={"J": "${{ branch }}"}), trigger=trigger, variables={"W": "${{ branch }}"}
    )
    assert step.templates is not None
    assert step.templates.env == {"E": "${{ branch }}", "J": "${{ branch }}"}
    assert (step.env["V"], step.env["W"], dict(step.secrets)) == ("${{ secrets.key }}", "${{ branch }}", {})


def test_variable_that_the_definition_sets_anew_is_that_of_the_definition() -> None:
    step = only_step(
        JobSpec("a", (StepSpec("s", uses="shell", env={"V": "${{ branch }}"}),)),
        trigger=Trigger(TriggerType.MANUAL, "ada", variables={"V": "from outside"}),
    )
    assert step.templates is not None
    assert step.templates.env == {"V": "${{ branch }}"}
    assert "V" not in step.env


def test_secrets_that_a_step_names_anywhere_are_known() -> None:
    step = only_step(
        JobSpec(
            "a",
            (
                StepSpec(
                    "s",
                    uses="shell",
                    args={"script": "login ${{ secrets.password }}", "more": ["${{ secrets.more }}"]},
                    env={"T": "${{ secrets.token }}"},
                    image="${{ secrets.registry }}/i",
                    secrets={"KEY": "deploy_key"},
                ),
            ),
            env={"J": "${{ secrets.of_job }}"},
        )
    )
    named = ("more", "of_job", "password", "registry", "token")
    assert dict(step.secrets) == {**{f"ARCENTRA_SECRET_{name}": name for name in named}, "KEY": "deploy_key"}
    assert step.dynamic


def test_secrets_that_only_texts_name_take_the_place_of_no_variable() -> None:
    args = {"script": "${{ secrets.T }} ${{ secrets.T_ }} ${{ secrets.V }}"}
    step = only_step(
        JobSpec("a", (StepSpec("s", uses="shell", args=args, secrets={"ARCENTRA_SECRET_T": "o"}),)),
        variables={"ARCENTRA_SECRET_V": "written", "V": "written"},
    )
    assert dict(step.secrets) == {
        "ARCENTRA_SECRET_T": "o",
        "ARCENTRA_SECRET_T_": "T",
        "ARCENTRA_SECRET_T__": "T_",
        "ARCENTRA_SECRET_V_": "V",
    }


def test_steps_name_only_their_own_secrets() -> None:
    steps = (StepSpec("s", uses="shell", secrets={"A": "a"}), StepSpec("t", uses="shell"))
    run = run_of(one_job(JobSpec("a", steps)))
    assert [dict(step.secrets) for _, step in run.steps()] == [{"A": "a"}, {}]


def kinds(job: NewJob) -> list[tuple[str, str, str, int]]:
    return [(step.name, step.kind, step.uses, step.index) for step in job.steps]


def test_source_and_target_are_the_first_and_the_last_step() -> None:
    job = JobSpec("a", (BUILD,), source=GitSource("r"), target=TargetSpec("k8s", {"name": "prod", "namespace": "web"}))
    run = run_of(one_job(job))
    assert kinds(run.jobs[0]) == [
        ("source", "source", "git", 0),
        ("build", "", "shell", 1),
        ("target", "target", "k8s", 2),
    ]
    assert run.jobs[0].steps[2].args == {"namespace": "web"}  # its name is for people


@pytest.mark.parametrize(("kind", "plugin"), [("k8s", "k8s"), ("s3", "s3"), ("command", "shell")])
def test_plugin_of_a_target(kind: str, plugin: str) -> None:
    assert only_step(JobSpec("a", (), target=TargetSpec(kind, {"script": "x"}))).uses == plugin


def test_source_is_cloned_as_the_definition_says() -> None:
    auth = SourceAuth("bot", "${{ secrets.word }}", "${{ secrets.git }}")
    step = only_step(JobSpec("a", (), source=GitSource("r", "main", auth, depth=1, submodules=True)))
    assert step.args == {
        "repo": "r",
        "branch": "main",
        "depth": 1,
        "submodules": True,
        "username": "bot",
        "password": "${{ secrets.word }}",
        "token": "${{ secrets.git }}",
        "commit": "",  # none is asked for
    }
    assert dict(step.secrets) == {"ARCENTRA_SECRET_git": "git", "ARCENTRA_SECRET_word": "word"}
    assert step.dynamic


def test_clone_is_looked_at_when_its_turn_comes_even_without_expressions() -> None:
    assert only_step(JobSpec("a", (), source=GitSource("r"))).dynamic
    assert not only_step(JobSpec("a", (), target=TargetSpec("command"))).dynamic


def test_branch_of_the_trigger_is_no_expression() -> None:
    trigger = Trigger(TriggerType.EVENT, "hook", branch="${{ secrets.key }}", commit_sha="${{ secrets.key }}")
    step = only_step(JobSpec("a", (), source=GitSource("r", "main")), trigger=trigger)
    assert dict(step.secrets) == {}
    assert step.templates is not None
    itself = "$${{ secrets.key }}"
    assert step.templates.args == {"repo": "r", "branch": itself, "commit": itself}
