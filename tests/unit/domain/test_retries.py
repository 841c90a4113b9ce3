"""Which jobs go with one that is retried, and what they wait for then."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import pytest

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import JobState, Waiting
from arcentra_server.domain.retries import open_needs, to_retry, with_dependants
from arcentra_server.domain.states import GateState, RunStatus

RUN = UUID(int=9)
STATES = {"S": "SUCCESS", "F": "FAILED", "C": "CANCELLED", "T": "TIMEOUT", "p": "PARTIAL", "x": "SKIPPED"}
STATES |= {"P": "PENDING", "R": "RUNNING"}


class Jobs:
    """The jobs of `"Fx|x"`, named a, b, c: states by stage; `r` is one that failed because it was refused."""

    def __init__(self, text: str, **needs: str) -> None:
        self.all: list[JobState] = []
        names = iter("abcdefgh")
        self._ids: dict[str, UUID] = {}
        for index, stage in enumerate(text.split("|")):
            for letter in stage:
                name = next(names)
                self._ids[name] = UUID(int=ord(name))
                status = RunStatus(STATES["F" if letter == "r" else letter])
                job = JobState(self._ids[name], RUN, index, status, 1, 1)
                job.gate = GateState.REJECTED if letter == "r" else GateState.NONE
                job.waits_for = Waiting.NEEDS if letter == "P" else Waiting.NOTHING
                self.all.append(job)
        self.needs = {self._ids[name]: [self._ids[need] for need in list_] for name, list_ in needs.items()}

    def named(self, names: str) -> list[JobState]:
        return [job for job in self.all if job.id in {self._ids[name] for name in names}]

    def names(self, jobs: Iterable[JobState | UUID]) -> str:
        by_id = {identity: name for name, identity in self._ids.items()}
        return "".join(by_id[one.id if isinstance(one, JobState) else one] for one in jobs)

    def counted(self, counts: dict[UUID, int]) -> dict[str, int]:
        return {self.names([job_id]): number for job_id, number in counts.items()}


@pytest.mark.parametrize(
    ("text", "needs", "refused", "retried", "together"),
    [
        # All that was skipped at a gate that was refused: it is asked for them together again.
        ("Sxx|x", {}, [0], "b", "bcd"),
        ("Sxx|x", {}, [1], "b", "bd"),
        ("S|xx|x", {"b": "c"}, [1], "b", "bcd"),
        ("S|Cx|x", {}, [1], "b", "bcd"),
        ("S|Sx", {}, [1], "b", "bc"),
    ],
)
def test_jobs_that_go_with_one_of_a_refused_stage(
    text: str, needs: dict[str, str], refused: list[int], retried: str, together: str
) -> None:
    jobs = Jobs(text, **needs)
    assert jobs.names(with_dependants(jobs.named(retried), jobs.all, jobs.needs, refused_stages=refused)) == together


def test_job_is_not_retried_behind_one_that_ended_without_its_approval() -> None:
    jobs = Jobs("rxF", b="a", c="a")
    for name in "bc":
        with pytest.raises(InvalidTransition, match="without its approval"):
            with_dependants(jobs.named(name), jobs.all, jobs.needs, refused_stages=())
    both = with_dependants(jobs.named("ac"), jobs.all, jobs.needs, refused_stages=())
    assert jobs.names(both) == "abc", "with the one that asks for it"


@pytest.mark.parametrize(
    ("text", "needs", "retried", "together"),
    [
        ("F", {}, "a", "a"),
        ("FS", {}, "a", "a"),
        # In its stage only what needs it, and what needs that.
        ("Fx", {}, "a", "a"),
        ("Fx", {"b": "a"}, "a", "ab"),
        ("Fxxx", {"b": "a", "c": "b"}, "a", "abc"),
        ("xxF", {"a": "b", "b": "c"}, "c", "abc"),
        # What ran stays as it is.
        ("FSx", {"b": "a", "c": "b"}, "a", "a"),
        ("FF", {"b": "a"}, "a", "a"),
        # In later stages all that was skipped; nothing of earlier ones.
        ("F|xS|x", {}, "a", "abd"),
        ("x|F|x", {}, "b", "bc"),
        ("S|Fx|x", {}, "b", "bd"),
        # What was refused later is asked again, with what it walled off; what was refused beside it stays refused.
        ("S|Srx", {"d": "c"}, "a", "acd"),
        ("Srx|x", {"c": "b"}, "a", "ad"),
        ("FF|x", {}, "ab", "abc"),
    ],
)
def test_jobs_that_go_with_one(text: str, needs: dict[str, str], retried: str, together: str) -> None:
    jobs = Jobs(text, **needs)
    assert jobs.names(with_dependants(jobs.named(retried), jobs.all, jobs.needs, refused_stages=())) == together


@pytest.mark.parametrize(
    ("text", "needs", "refused", "failed"),
    [
        ("SS|S", {}, [], ""),
        ("SF|x", {}, [], "bc"),
        ("FT|x", {}, [], "abc"),
        ("SC|x", {}, [], "bc"),
        ("Sp|S", {}, [], ""),
        ("xS|S", {}, [], ""),  # its own condition skipped it
        ("Srx|x", {"c": "b"}, [], "bcd"),
        # A gate before a stage was refused: nothing failed.
        ("Sx|xx|x", {}, [1], "cde"),
        # ... but for what somebody cancelled behind it, which cannot run before that.
        ("S|x|C", {}, [1], "bc"),
        ("F|x|x", {}, [1], "abc"),
    ],
)
def test_what_of_a_run_failed(text: str, needs: dict[str, str], refused: list[int], failed: str) -> None:
    jobs = Jobs(text, **needs)
    found = to_retry(jobs.all, jobs.needs, refused_stages=refused, everything=False)
    assert jobs.names(found) == failed


def test_everything_of_a_run() -> None:
    jobs = Jobs("Sx|FS")
    assert jobs.names(to_retry(jobs.all[::-1], {}, refused_stages=(), everything=True)) == "abcd"


@pytest.mark.parametrize(
    ("text", "needs", "retried", "open_"),
    [
        ("F", {}, "a", {"a": 0}),
        ("Fx", {"b": "a"}, "ab", {"a": 0, "b": 1}),
        ("FxS", {"b": "ac"}, "ab", {"a": 0, "b": 1}),
        # What has not had its turn waits for it again, and the job itself for what has not ended.
        ("FRP", {"c": "ab"}, "a", {"a": 0, "c": 2}),
        ("RC", {"b": "a"}, "b", {"b": 1}),
        ("RPC", {"b": "a", "c": "b"}, "c", {"b": 1, "c": 1}),
        ("FSS", {"c": "ab"}, "a", {"a": 0}),
    ],
)
def test_what_they_wait_for(text: str, needs: dict[str, str], retried: str, open_: dict[str, int]) -> None:
    jobs = Jobs(text, **needs)
    assert jobs.counted(open_needs(jobs.named(retried), jobs.all, jobs.needs)) == open_


def test_nothing_is_retried_under_what_depends_on_it_and_goes_on() -> None:
    jobs = Jobs("FR", b="a")
    with pytest.raises(InvalidTransition, match="depends on it goes on"):
        open_needs(jobs.named("a"), jobs.all, jobs.needs)


def test_what_waits_at_its_own_gate_goes_on_though_none_of_its_steps_ran() -> None:
    jobs = Jobs("SP", b="a")
    [waiting] = jobs.named("b")
    waiting.waits_for, waiting.gate = Waiting.APPROVAL, GateState.WAITING
    with pytest.raises(InvalidTransition, match="depends on it goes on"):
        open_needs(jobs.named("a"), jobs.all, jobs.needs)


@pytest.mark.parametrize("waits_for", [Waiting.CONCURRENCY, Waiting.RETRY, Waiting.NOTHING])
def test_what_had_its_turn_goes_on_though_it_has_not_begun(waits_for: Waiting) -> None:
    jobs = Jobs("FP", b="a")
    jobs.named("b")[0].waits_for = waits_for
    with pytest.raises(InvalidTransition):
        open_needs(jobs.named("a"), jobs.all, jobs.needs)
