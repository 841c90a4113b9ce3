"""Random pipelines, in the notation of `tests/support/shapes.py`: up to ten jobs in three stages, with all they may have."""

from __future__ import annotations

from string import ascii_lowercase

from hypothesis import strategies as st

from tests.support.shapes import CONDITIONS, STEPS

_KINDS = st.sampled_from(STEPS + "..")
_LETTERS = sorted(CONDITIONS)
# Conditions are rare enough that most runs get somewhere, and mostly those that decide what runs after a failure.
_STEP_WHEN = st.sampled_from(["", "", "", "a", "a", "f", *_LETTERS])
_JOB_WHEN = st.sampled_from([*[""] * 8, "a", "a", "f", *_LETTERS])
_NEEDING_WHEN = st.sampled_from([*[""] * 6, "a", "a", "a", "f", "f", *_LETTERS])
_RETRIES = st.sampled_from(
    [*[""] * 6, "retry=2", "retry=3;delay=5", "retry=2;on=script", "retry=2;on=failed", "retry=2;on=timeout,agent_lost"]
)


def _sometimes(text: str, times: int = 6) -> st.SearchStrategy[str]:
    return st.sampled_from([*[""] * (times - 1), text])


@st.composite
def _job(draw: st.DrawFn, before: str, keys: tuple[str, ...]) -> str:
    """Draw a job. `before`: the jobs of its stage that it may need."""
    steps = "".join(draw(_KINDS) + draw(_STEP_WHEN) for _ in range(draw(st.integers(1, 3))))
    needing = before and draw(st.sampled_from((True, True, False)))
    needs = draw(st.sets(st.sampled_from(before), min_size=1, max_size=3)) if needing else ()
    when = draw(_NEEDING_WHEN if needs else _JOB_WHEN)
    source = draw(_sometimes("source=r", 8))
    options = [
        f"needs={','.join(sorted(needs))}" if needs else "",
        f"when={when}" if when else "",
        draw(_RETRIES),
        draw(_sometimes("allow")),
        draw(_sometimes("gate", 8)),
        source,
        draw(st.sampled_from(keys)) if keys else "",
    ]
    written = ";".join(option for option in options if option)
    return f"{steps}[{written}]" if written else steps


@st.composite
def runs(draw: st.DrawFn, most_jobs: int = 10, most_stages: int = 3, keys: tuple[str, ...] = ()) -> str:
    """Draw a pipeline. `keys`: the options of concurrency keys that a job may have."""
    stages, made = [], 0
    for _ in range(draw(st.integers(1, most_stages))):
        if made == most_jobs:
            break
        jobs: list[str] = []
        first = made
        for _ in range(draw(st.integers(1, min(4, most_jobs - made)))):
            jobs.append(draw(_job(ascii_lowercase[first:made], keys)))
            made += 1
        stages.append(draw(_sometimes("& ", 4)) + " ".join(jobs))
    return " | ".join(stages)


@st.composite
def gated(draw: st.DrawFn) -> str:
    """Draw a small pipeline of which most stages and jobs have a gate, and some jobs run whatever failed before."""
    stages, made = [], 0
    for _ in range(draw(st.integers(2, 3))):
        jobs = []
        for place in range(draw(st.integers(1, 3))):
            needs = f"needs={ascii_lowercase[made - 1]}" if place and draw(st.booleans()) else ""
            options = [needs, draw(_sometimes("gate", 2)), draw(_sometimes("when=a", 4)), draw(_sometimes("allow", 4))]
            written = ";".join(option for option in options if option)
            jobs.append(f".[{written}]" if written else ".")
            made += 1
        stages.append(draw(_sometimes("& ", 2)) + " ".join(jobs))
    return " | ".join(stages)


def rivals() -> st.SearchStrategy[list[str]]:
    """Draw a few pipelines whose jobs want the same keys."""
    keys = ("key=k", "key=k", "key=k", "key=k;most=2", "key=l", "")
    return st.lists(runs(most_jobs=4, most_stages=2, keys=keys), min_size=2, max_size=3)
