"""Strategies for definitions: everything that the domain can hold, and the contract and documents can carry.

Most of them are faulty: that is for the checks to say, not for what carries them.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from arcentra_server.domain.definition import (
    DEFAULT_STAGE,
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
)
from arcentra_server.domain.definition_json import from_json, to_json
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.rpc.convert.struct_fields import EXACT_INTEGERS

# For tests of whole definitions: making one up takes longer than anything that is done with it.
LARGE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# No NUL and no half surrogate pairs: neither travels.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NAMES = st.text("abcXYZ019._-", min_size=1, max_size=8)
ENV = st.dictionaries(st.sampled_from(["A", "B_1", "path"]), TEXT, max_size=3)
TIMEOUTS = st.none() | st.integers(1, 365 * 86_400_000)
# Whole numbers are integers wherever they come from, as far as a Struct can tell them apart.
FRACTIONS = st.floats(-1e6, 1e6).map(lambda number: number + 0.5 if number.is_integer() else number) | st.sampled_from(
    [1e-07, -1.5e300]
)
INTEGERS = st.integers(-EXACT_INTEGERS, EXACT_INTEGERS)
SCALARS = st.none() | st.booleans() | INTEGERS | FRACTIONS | TEXT
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
ARGS = st.dictionaries(TEXT, JSON, max_size=3)
_TEXTS = st.lists(TEXT, max_size=3).map(tuple)
_NUMBERS = st.integers(-(2**31), 2**31 - 1)

_KEYS = st.sampled_from(["os", "arch", "gpu"])
_TERMS = (
    st.builds(Term, _KEYS, st.sampled_from([Operator.IN, Operator.NOT_IN]), st.lists(TEXT, min_size=1).map(tuple))
    | st.builds(Term, _KEYS, st.sampled_from([Operator.EXISTS, Operator.NOT_EXISTS]))
    | st.builds(Term, _KEYS, st.sampled_from([Operator.GT, Operator.LT]), st.integers().map(lambda n: (str(n),)))
)
SELECTORS = st.builds(Selector, st.lists(_TERMS, max_size=4).map(tuple))
ARTIFACTS = st.builds(ArtifactSpec, NAMES, TEXT, TEXT, st.none() | st.integers(1, 10_000))
STEPS = st.builds(
    StepSpec,
    name=NAMES,
    uses=NAMES,
    action=TEXT,
    args=ARGS,
    env=ENV,
    continue_on_error=st.booleans(),
    timeout_ms=TIMEOUTS,
    selector=st.none() | SELECTORS,
    run_on_agent=st.booleans(),
    when=TEXT,
    image=TEXT,
    artifacts=st.lists(ARTIFACTS, max_size=2).map(tuple),
    secrets=st.dictionaries(st.sampled_from(["A", "TOKEN"]), st.sampled_from(["A", "TOKEN", "b c"]), max_size=2),
)
APPROVALS = st.builds(ApprovalSpec, approvers=_TEXTS, needed=_NUMBERS, separation=st.booleans(), timeout_ms=TIMEOUTS)
SOURCES = st.builds(GitSource, TEXT, TEXT, st.none() | st.builds(SourceAuth, TEXT, TEXT, TEXT), _NUMBERS, st.booleans())
NOTIFICATIONS = st.none() | st.builds(NotificationSpec, NAMES, TEXT, ARGS)
_VALUES = st.booleans() | INTEGERS | FRACTIONS | TEXT
_CELLS = st.lists(st.dictionaries(TEXT, _VALUES, max_size=3), max_size=3).map(tuple)
_AXIS_NAMES = TEXT.filter(lambda name: name not in {"include", "exclude"})
MATRICES = st.builds(
    MatrixSpec,
    axes=st.dictionaries(_AXIS_NAMES, st.lists(_VALUES, max_size=3).map(tuple), max_size=3).map(
        lambda axes: tuple(axes.items())
    ),
    include=_CELLS,
    exclude=_CELLS,
)
JOBS = st.builds(
    JobSpec,
    name=NAMES,
    steps=st.lists(STEPS, max_size=2).map(tuple),
    description=TEXT,
    env=ENV,
    timeout_ms=TIMEOUTS,
    source=st.none() | SOURCES,
    selector=st.none() | SELECTORS,
    depends_on=_TEXTS,
    when=TEXT,
    retry=st.none() | st.builds(RetrySpec, _NUMBERS, TIMEOUTS.map(lambda delay: delay or 0), _TEXTS),
    priority=_NUMBERS,
    allow_failure=st.booleans(),
    matrix=st.none() | MATRICES,
    outputs=ENV,
    concurrency=TEXT,
    concurrency_limit=st.integers(1, 2**31 - 1) | st.integers(-(2**31), -1),
    cancel_in_progress=st.booleans(),
    approval=st.none() | APPROVALS,
    target=st.none() | st.builds(TargetSpec, NAMES, ARGS),
    notify=st.none() | st.builds(NotifySpec, NOTIFICATIONS, NOTIFICATIONS),
)
STAGES = st.builds(StageSpec, NAMES, st.lists(JOBS, max_size=2).map(tuple), st.none() | APPROVALS)
_SOME_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
TRIGGERS = (
    st.just(ManualTrigger())
    | st.builds(CronTrigger, TEXT, _SOME_TEXT, st.sampled_from(CatchUp), TEXT, ENV)
    | st.builds(EventTrigger, _TEXTS, _TEXTS, _TEXTS, _TEXTS, _TEXTS, ENV)
)
_REST = {"variables": ENV, "timeout_ms": TIMEOUTS, "triggers": st.lists(TRIGGERS, max_size=2).map(tuple)}
_JOBS_ONLY = st.lists(JOBS, min_size=1, max_size=2).map(lambda jobs: (StageSpec(DEFAULT_STAGE, tuple(jobs)),))
SPECS = st.builds(PipelineSpec, st.lists(STAGES, max_size=2).map(tuple), **_REST) | st.builds(
    PipelineSpec, _JOBS_ONLY, jobs_only=st.just(value=True), **_REST
)


def canonical(spec: PipelineSpec) -> PipelineSpec:
    """Return the definition as it is stored, where the conditions of selectors have one order."""
    return from_json(to_json(spec))
