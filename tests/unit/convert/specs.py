"""Strategies for definitions: everything that the domain can hold and the contract can carry."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from arcentra_server.domain.definition import DEFAULT_STAGE, GitSource, JobSpec, PipelineSpec, StageSpec, StepSpec
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.rpc.convert.definition import EXACT_INTEGERS

# No NUL and no half surrogate pairs: neither travels.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NAMES = st.text("abcXYZ019._-", min_size=1, max_size=8)
ENV = st.dictionaries(st.sampled_from(["A", "B_1", "path"]), TEXT, max_size=3)
TIMEOUTS = st.none() | st.integers(1, 365 * 86_400_000)
FRACTIONS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
SCALARS = st.none() | st.booleans() | st.integers(-EXACT_INTEGERS, EXACT_INTEGERS) | FRACTIONS | TEXT
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
ARGS = st.dictionaries(TEXT, JSON, max_size=3)

_KEYS = st.sampled_from(["os", "arch", "gpu"])
_TERMS = (
    st.builds(Term, _KEYS, st.sampled_from([Operator.IN, Operator.NOT_IN]), st.lists(TEXT, min_size=1).map(tuple))
    | st.builds(Term, _KEYS, st.sampled_from([Operator.EXISTS, Operator.NOT_EXISTS]))
    | st.builds(Term, _KEYS, st.sampled_from([Operator.GT, Operator.LT]), st.integers().map(lambda n: (str(n),)))
)
SELECTORS = st.builds(Selector, st.lists(_TERMS, max_size=4).map(tuple))
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
)
JOBS = st.builds(
    JobSpec,
    name=NAMES,
    steps=st.lists(STEPS, max_size=3).map(tuple),
    description=TEXT,
    env=ENV,
    timeout_ms=TIMEOUTS,
    source=st.none() | st.builds(GitSource, TEXT, TEXT),
    selector=st.none() | SELECTORS,
)
STAGES = st.builds(StageSpec, NAMES, st.lists(JOBS, max_size=2).map(tuple))
_JOBS_ONLY = st.lists(JOBS, min_size=1, max_size=3).map(lambda jobs: (StageSpec(DEFAULT_STAGE, tuple(jobs)),))
SPECS = st.builds(PipelineSpec, st.lists(STAGES, max_size=3).map(tuple), ENV) | st.builds(
    PipelineSpec, _JOBS_ONLY, ENV, st.just(value=True)
)


def canonical(spec: PipelineSpec) -> PipelineSpec:
    """Return the definition as it is stored, where the conditions of selectors have one order."""
    return PipelineSpec.from_json(spec.to_json())
