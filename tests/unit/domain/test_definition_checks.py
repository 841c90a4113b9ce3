"""What the broken documents of tests/data do not show: limits, and faults of definitions that came by a call."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from arcentra_server.domain.clear_secrets import leaked, secret_warnings
from arcentra_server.domain.definition import (
    ApprovalSpec,
    ArtifactSpec,
    CronTrigger,
    EventTrigger,
    GitSource,
    JobSpec,
    ManualTrigger,
    MatrixSpec,
    NotificationSpec,
    NotifySpec,
    PipelineSpec,
    RetrySpec,
    SourceAuth,
    StageSpec,
    StepSpec,
    TargetSpec,
)
from arcentra_server.domain.definition_checks import check_pipeline, total_jobs, total_steps
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.field_checks import check_args, check_env, is_reference
from arcentra_server.domain.part_checks import RETRIED
from arcentra_server.domain.step_checks import check_added_step, check_step
from tests.support.calls import calls_of

STEP = StepSpec("s", "shell")


def spec_of(*jobs: JobSpec, **rest: Any) -> PipelineSpec:
    return PipelineSpec((StageSpec("default", jobs),), jobs_only=True, **rest)


def job_with(**parts: Any) -> PipelineSpec:
    return spec_of(JobSpec("j", (STEP,), **parts))


def step_with(**parts: Any) -> PipelineSpec:
    return spec_of(JobSpec("j", (replace(STEP, **parts),)))


def matrix_of(size: int) -> MatrixSpec:
    return MatrixSpec((("a", tuple(range(size))),))


def cells_by_cells(left: int, right: int, jobs: int = 1) -> tuple[JobSpec, ...]:
    """Jobs of so many cells each, and as many of which every cell depends on all of those."""
    first = tuple(JobSpec(f"l{n}", (STEP,), matrix=matrix_of(left)) for n in range(jobs))
    names = tuple(job.name for job in first)
    return *first, *(JobSpec(f"r{n}", (STEP,), matrix=matrix_of(right), depends_on=names) for n in range(jobs))


SOUND: list[PipelineSpec] = [
    spec_of(*cells_by_cells(250, 200)),
    job_with(priority=100, concurrency="a/B.c_d-9", concurrency_limit=1000, cancel_in_progress=True),
    job_with(priority=-100, retry=RetrySpec(10, 1, RETRIED), allow_failure=True),
    job_with(approval=ApprovalSpec(("anna", "bob"), 2, separation=True, timeout_ms=1)),
    job_with(source=GitSource("git@example.test:a.git", auth=SourceAuth("anna", token="${{ secrets.A }}"), depth=1)),
    job_with(source=GitSource("${{ variables.repo }}", "${{ branch }}"), env={"A": "x"}),
    job_with(target=TargetSpec("k8s", {"manifests": ["deploy/*.yaml"], "kubeconfig": "${{ secrets.K }}"})),
    job_with(target=TargetSpec("s3", {"bucket": "b", "path": "dist", "endpoint": "https://s3.example.test"})),
    job_with(notify=NotifySpec(NotificationSpec("slack", args={"url": "${{ secrets.SLACK }}", "text": "done"}))),
    job_with(matrix=MatrixSpec((("os", ("linux", "mac")),))),
    step_with(image="ghcr.io/a/b:1.2@sha256:0123", when="always()", secrets={"TOKEN": "DEPLOY_TOKEN"}),
    step_with(artifacts=(ArtifactSpec("a", "dist/**/*.whl", "wheels", 3650), ArtifactSpec("b", "x"))),
    step_with(args={"script": "echo ${{ branch }}"}, env={"B": "${{ variables.repo }}"}),
    spec_of(JobSpec("j", (), target=TargetSpec("command", {"script": "make deploy", "name": "live"}))),
]


@pytest.mark.parametrize("spec", SOUND)
def test_sound_definitions_have_no_fault(spec: PipelineSpec) -> None:
    triggers = (
        ManualTrigger(),
        CronTrigger("*/5 8-18 * * MON-FRI", "Europe/Berlin", branch="main", variables={"A": "b"}),
        EventTrigger(("push", "tag", "deploy.done"), ("main", "release/**", "!release/old"), ("v*",), ("src/**",)),
    )
    assert check_pipeline(replace(spec, variables={"repo": "r"}, triggers=triggers, timeout_ms=1)) == []


FAULTY: list[tuple[PipelineSpec, str, str]] = [
    (spec_of(JobSpec("j", (STEP,)), timeout_ms=0), "timeout", "must be longer than zero"),
    (job_with(timeout_ms=-1), "jobs[0].timeout", "must be longer than zero"),
    (job_with(retry=RetrySpec(2, -1)), "jobs[0].retry.delay", "must not be negative"),
    (job_with(approval=ApprovalSpec(tuple(map(str, range(101))))), "jobs[0].approval.approvers", "101 names, more than 100"),
    (job_with(approval=ApprovalSpec(("a\nb",))), "jobs[0].approval.approvers[0]", "'a\\nb' holds a character that cannot be printed"),
    (job_with(target=TargetSpec("s3", {"bucket": "b", "path": "${{ branch }}/../x"})), "jobs[0].target.config.path", "'${{ branch }}/../x' is not a path inside the workspace"),
    (job_with(target=TargetSpec("command", {"script": "xoxb-0123456789"})), "jobs[0].target.config.script", "holds a Slack token in clear: store it as a secret and name that in its stead"),
    (step_with(artifacts=tuple(ArtifactSpec(f"a{n}", "x") for n in range(101))), "jobs[0].steps[0].artifacts", "101 artifacts, more than 100"),
    (step_with(artifacts=(ArtifactSpec("a", "x" * 1025),)), "jobs[0].steps[0].artifacts[0].path", "has 1025 characters, more than 1024"),
    (step_with(secrets={f"A{n}": "B" for n in range(101)}), "jobs[0].steps[0].secrets", "101 secrets, more than 100"),
    (step_with(args={"a": {"b": ["ghp_" + "x" * 36]}}), "jobs[0].steps[0].args.a.b[0]", "holds a GitHub token in clear: store it as a secret and name that in its stead"),
    (spec_of(JobSpec("j", (STEP,)), triggers=(ManualTrigger(),) * 51), "triggers", "51 triggers, more than 50"),
    (spec_of(JobSpec("j", (STEP,)), triggers=(EventTrigger(("push",), tuple(map(str, range(101)))),)), "triggers[0].branches", "101 entries, more than 100"),
    (spec_of(*(JobSpec(f"j{n}", (STEP,)) for n in range(5001))), "", "5001 jobs, more than the 5000 that a pipeline may have"),
    (spec_of(*(JobSpec(f"j{n}", (STEP,), matrix=MatrixSpec((("a", tuple(range(200))),))) for n in range(26))), "", "5200 jobs with all cells, more than the 5000 of a pipeline"),
    (spec_of(*(JobSpec(f"j{n}", tuple(StepSpec(f"s{m}", "shell") for m in range(499)), source=GitSource("r")) for n in range(101))), "", "50500 steps with all cells, more than the 50000 of a pipeline"),
    (spec_of(*cells_by_cells(226, 222)), "", "50172 dependencies with all cells, more than the 50000 of a pipeline: divide the jobs into stages"),
    (spec_of(JobSpec("j", tuple(StepSpec(f"s{m}", "shell") for m in range(501)))), "jobs[0].steps", "501 steps, more than the 500 of a job"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "path", "message"), FAULTY, ids=[path or "all" for _, path, _ in FAULTY])
def test_a_fault_is_named_at_its_path(spec: PipelineSpec, path: str, message: str) -> None:
    assert check_pipeline(spec) == [Fault(path, message)]


def test_all_jobs_and_steps_of_a_run_are_counted() -> None:
    matrix = MatrixSpec((("a", (1, 2, 3)),))
    jobs = (
        JobSpec("one", (STEP, STEP), matrix=matrix, source=GitSource("r")),
        JobSpec("two", (STEP,), target=TargetSpec("command", {"script": "x"})),
    )
    assert (total_jobs(spec_of(*jobs)), total_steps(spec_of(*jobs))) == (4, 11)


def test_dependencies_are_counted_without_making_them() -> None:
    spec = spec_of(*cells_by_cells(250, 250, jobs=10))
    assert check_pipeline(spec)[0].message.startswith("6250000 dependencies with all cells")
    assert calls_of(lambda: check_pipeline(spec)) < 500_000


def test_a_step_by_itself_has_no_path() -> None:
    faults = check_step(StepSpec("s", "", env={"1": "x"}, image="-x", timeout_ms=0), "")
    assert [fault.path for fault in faults] == ["env['1']", "uses", "timeout", "image"]


def test_limits_of_variables_and_arguments() -> None:
    assert check_env({f"A{n}": "" for n in range(1001)}, "env") == [Fault("env", "1001 entries, more than 1000")]
    assert check_env({"A": "x" * 65_536}, "env") == [
        Fault("env", "65537 bytes, more than 65536: every step gets a copy")
    ]
    deep: Any = "x"
    for _ in range(17):
        deep = [deep]
    for args in ({"a": deep}, {str(n): n for n in range(1001)}, {"a": "x" * 65_536}):
        assert check_args(args, "args") == [Fault("args", "args too deep or too large")]
    assert check_args({"a": float("inf")}, "args") == [Fault("args", "args hold a number that is not finite")]


LEAKED = [
    ("ghp_" + "a" * 36, "a GitHub token"),
    ("x=ghs_" + "A1" * 18, "a GitHub token"),
    ("github_pat_" + "a_" * 11, "a GitHub token"),
    ("glpat-" + "a" * 20, "a GitLab token"),
    ("AKIA" + "A" * 16, "an AWS key"),
    ("\nxoxp-0123456789-", "a Slack token"),
    ("arc_pat_" + "a" * 16, "an Arcentra token"),
    ("-----BEGIN PRIVATE KEY-----", "a private key"),
    ("-----BEGIN OPENSSH PRIVATE KEY-----\nx", "a private key"),
]


@pytest.mark.parametrize(("text", "what"), LEAKED)
def test_tokens_are_known_by_their_form(text: str, what: str) -> None:
    assert leaked(text) == f"holds {what} in clear: store it as a secret and name that in its stead"


@pytest.mark.parametrize("text", ["", "ghp_short", "glpat-", "AKIA", "-----BEGIN CERTIFICATE-----", "a" * 1000])
def test_other_texts_are_left_alone(text: str) -> None:
    assert leaked(text) is None


def test_variables_that_are_named_like_secrets_are_warned_about() -> None:
    env = {
        "API_TOKEN": "x",
        "db_password": "x",
        "KEY": "x",
        "TOKEN_FILE": "x",
        "MONKEY": "x",
        "EMPTY_SECRET": "",
        "GOOD_SECRET": "${{ secrets.A }}",
    }
    spec = replace(
        step_with(env=env), variables={"A_KEY": "x"}, triggers=(CronTrigger("@daily", variables={"SECRET": "x"}),)
    )
    assert [fault.path for fault in secret_warnings(spec)] == [
        "variables['A_KEY']",
        "triggers[0].variables['SECRET']",
        "jobs[0].steps[0].env['API_TOKEN']",
        "jobs[0].steps[0].env['db_password']",
        "jobs[0].steps[0].env['KEY']",
    ]


@pytest.mark.parametrize(
    ("text", "answer"),
    [("${{ secrets.A }}", True), (" ${{secrets._a1}} ", True), ("${{ secrets.A }}x", False), ("secrets.A", False)],
)
def test_a_reference_is_nothing_but_one(text: str, answer: bool) -> None:
    assert is_reference(text) is answer


def test_checking_grows_with_a_definition_and_no_faster() -> None:
    def of(count: int) -> PipelineSpec:
        jobs = (
            JobSpec(
                f"j{n}",
                tuple(StepSpec(f"s{m}", "shell", args={"script": "make\n"}) for m in range(3)),
                depends_on=tuple(f"j{max(0, n - back)}" for back in range(1, 6) if n >= back),
            )
            for n in range(count)
        )
        return spec_of(*jobs)

    small, large = of(100), of(1_000)
    assert check_pipeline(large) == []
    few, many = (calls_of(partial(check_pipeline, spec)) for spec in (small, large))
    assert many < 11 * few


def test_the_expressions_of_an_added_step_are_checked_where_it_comes_to_stand() -> None:
    other = JobSpec("other", (STEP,), outputs={"o": "x"})
    job = JobSpec(
        "j", (StepSpec("first", ""), StepSpec("second", "")), depends_on=("other",), env={"E": "${{ nonsense }}"}
    )
    stage = StageSpec("a", (other, job))
    sound = StepSpec(
        "s", "shell", when="steps.second.result == 'success' && needs.other.outputs.o == env.A", env={"A": "x"}
    )
    assert check_added_step(sound, job, stage, ["VAR", "ARCENTRA_BRANCH"]) == []
    faulty = StepSpec("s", "shell", when="steps.third.result == variables.NOT", image="${{ variables.VAR }}:${{")
    faults = check_added_step(faulty, job, stage, ["VAR"])
    assert [fault.path for fault in faults] == ["when", "when", "image"]
    assert "there is no step 'third' before this place" in faults[0].message
