"""A strategy for definitions without faults, for what looks at more than the form."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from arcentra_server.domain.definition import (
    ApprovalSpec,
    ArtifactSpec,
    CatchUp,
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
    TriggerSpec,
)
from arcentra_server.domain.part_checks import RETRIED
from tests.support.specs import SELECTORS

_WORDS = st.text("abcz019", min_size=1, max_size=6)
_TIMEOUTS = st.none() | st.integers(1, 86_400_000)
_ENV = st.dictionaries(st.sampled_from(["A", "B_1"]), _WORDS, max_size=2)
_SECRET = "${{ secrets.A }}"
_ARGS = st.fixed_dictionaries({"script": _WORDS}, optional={"n": st.integers(0, 9), "list": st.lists(_WORDS)})
_STEPS = st.builds(
    StepSpec,
    name=st.just(""),
    uses=st.sampled_from(["shell", "git", "org/tool@1.2"]),
    action=_WORDS,
    args=_ARGS,
    env=_ENV,
    continue_on_error=st.booleans(),
    timeout_ms=_TIMEOUTS,
    selector=st.none() | SELECTORS,
    when=st.sampled_from(["", "always()", "failure()"]),
    image=st.sampled_from(["", "python:3.12"]),
    artifacts=st.lists(
        st.builds(ArtifactSpec, st.just(""), _WORDS, _WORDS, st.none() | st.integers(1, 99)), max_size=1
    ).map(tuple),
    secrets=st.sampled_from([{}, {"TOKEN": "TOKEN"}, {"TOKEN": "OTHER"}]),
)
_APPROVALS = st.none() | st.builds(
    ApprovalSpec,
    approvers=st.sampled_from([(), ("anna", "bob")]),
    needed=st.integers(1, 2),
    separation=st.booleans(),
    timeout_ms=_TIMEOUTS,
)
_SOURCES = st.none() | st.builds(
    GitSource,
    st.just("https://example.test/a.git"),
    st.sampled_from(["", "main"]),
    st.sampled_from([None, SourceAuth("anna", token=_SECRET), SourceAuth(password=_SECRET)]),
    st.integers(0, 9),
    st.booleans(),
)
_TARGETS = st.sampled_from(
    [
        None,
        TargetSpec("k8s", {"manifests": ["deploy/*.yaml"], "wait": True, "kubeconfig": _SECRET}),
        TargetSpec("s3", {"bucket": "b", "path": "dist", "access_key": "a", "secret_key": _SECRET}),
        TargetSpec("command", {"script": "make deploy", "name": "live"}),
    ]
)
_NOTIFICATIONS = st.sampled_from(
    [
        NotificationSpec("slack", "send", {"url": _SECRET, "title": "t"}),
        NotificationSpec("webhook", args={"url": "https://example.test/hook", "headers": {"X-A": "b"}}),
        NotificationSpec("mail", args={"server": "mail.example.test", "from": "a@b.test", "to": ["c@d.test"]}),
        NotificationSpec("telegram", args={"token": _SECRET, "chat": 12}),
    ]
)
_NOTIFY = st.none() | st.builds(NotifySpec, _NOTIFICATIONS, st.none() | _NOTIFICATIONS)
_MATRICES = st.sampled_from(
    [
        None,
        MatrixSpec((("os", ("linux", "mac")), ("v", (1, 2.5, True)))),
        MatrixSpec((("os", ("linux", "mac")),), ({"os": "win"}, {"x": 1}), ({"os": "mac"},)),
        MatrixSpec(include=({"a": 1},)),
    ]
)
_JOBS = st.builds(
    JobSpec,
    name=st.just(""),
    steps=st.lists(_STEPS, min_size=1, max_size=2).map(tuple),
    description=_WORDS,
    env=_ENV,
    timeout_ms=_TIMEOUTS,
    source=_SOURCES,
    selector=st.none() | SELECTORS,
    when=st.sampled_from(["", "always()"]),
    retry=st.none() | st.builds(RetrySpec, st.integers(1, 10), st.integers(0, 9), st.sampled_from([(), RETRIED])),
    priority=st.integers(-100, 100),
    allow_failure=st.booleans(),
    matrix=_MATRICES,
    outputs=st.sampled_from([{}, {"o": "${{ branch }}"}]),
    approval=_APPROVALS,
    target=_TARGETS,
    notify=_NOTIFY,
)
_TRIGGERS: st.SearchStrategy[TriggerSpec] = st.sampled_from(
    [
        ManualTrigger(),
        CronTrigger("30 2 * * 1-5", "Europe/Berlin", CatchUp.LAST, "main", {"A": "b"}),
        CronTrigger("@daily"),
        EventTrigger(("push", "tag"), ("main", "!x"), ("v*",), ("src/**",), ("me/*",), {"A": "b"}),
    ]
)


@st.composite
def _specs(draw: st.DrawFn) -> PipelineSpec:
    jobs_only = draw(st.booleans())
    stages = []
    count = 0
    for stage_index in range(1 if jobs_only else draw(st.integers(1, 2))):
        jobs: list[JobSpec] = []
        for job in draw(st.lists(_JOBS, min_size=1, max_size=2)):
            key = draw(st.sampled_from(["", "deploy/live"]))
            jobs.append(
                _named(job, f"j{count}", tuple(draw(st.lists(st.sampled_from(jobs), max_size=1))) if jobs else (), key)
            )
            count += 1
        gate = None if jobs_only else draw(_APPROVALS)
        stages.append(StageSpec("default" if jobs_only else f"s{stage_index}", tuple(jobs), gate))
    return PipelineSpec(
        tuple(stages), draw(_ENV), jobs_only, draw(_TIMEOUTS), tuple(draw(st.lists(_TRIGGERS, max_size=2)))
    )


def _named(job: JobSpec, name: str, needs: tuple[JobSpec, ...], key: str) -> JobSpec:
    """Give a job and its parts names that differ, and what goes with others."""
    steps = tuple(
        replace(
            step,
            name=f"t{index}",
            artifacts=tuple(replace(artifact, name=f"a{index}") for artifact in step.artifacts),
        )
        for index, step in enumerate(job.steps)
    )
    return replace(
        job,
        name=name,
        steps=steps,
        depends_on=tuple(one.name for one in needs),
        concurrency=key,
        concurrency_limit=2 if key else 1,
        cancel_in_progress=bool(key),
    )


SOUND_SPECS = _specs()
