from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.domain.event_order import LARGEST_EVENT, AgentEvent, Decision, EventStream, decide
from arcentra_server.domain.ingest import AckStatus, Item, Reason, Tally, Verdict

HELD = UUID(int=1)


def event(seq: int, event_id: str = "", **fields: object) -> AgentEvent:
    return replace(AgentEvent(seq, event_id or f"e{seq}", "artifact.uploaded", size=100), **fields)  # type: ignore[arg-type]


def decided(events: Sequence[AgentEvent], last: int = 2) -> tuple[Decision, EventStream]:
    stream = EventStream(last, {f"e{seq}" for seq in range(1, last + 1)})
    return decide(stream, events, {HELD}), stream


def reasons(decision: Decision) -> list[Reason | None]:
    return [verdict.reason for verdict in decision.verdicts]


@pytest.mark.parametrize(
    ("events", "expected", "stored", "last"),
    [
        pytest.param([event(3), event(4)], [None, None], [3, 4], 4, id="in order"),
        pytest.param([event(1), event(2), event(3)], [None, None, None], [3], 3, id="sent again"),
        pytest.param([event(2, "other")], [Reason.DUPLICATE_SEQ], [], 2, id="a seq that is taken"),
        pytest.param([event(3), event(5), event(6)], [None, *[Reason.OUT_OF_ORDER] * 2], [3], 3, id="a hole"),
        pytest.param([event(3), event(3, "other")], [None, Reason.DUPLICATE_SEQ], [3], 3, id="one seq, two events"),
        pytest.param([event(3), event(3)], [None, None], [3], 3, id="twice in a batch"),
        pytest.param([event(3, "e1"), event(4)], [None, None], [4], 4, id="stored under another seq"),
        pytest.param([event(9, "e1")], [Reason.OUT_OF_ORDER], [], 2, id="stored, but after a hole"),
        pytest.param([event(0)], [Reason.INVALID_ARGUMENT], [], 2, id="no seq"),
    ],
)
def test_order(events: list[AgentEvent], expected: list[Reason | None], stored: list[int], last: int) -> None:
    decision, stream = decided(events)
    assert reasons(decision) == expected
    assert [event.seq for event in decision.store] == stored
    assert stream.last_seq == last


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (event(3, size=LARGEST_EVENT + 1), Reason.TOO_LARGE),
        (replace(event(3), event_id=""), Reason.INVALID_ARGUMENT),
        (event(3, "has space"), Reason.INVALID_ARGUMENT),
        (event(3, event_type=""), Reason.INVALID_ARGUMENT),
        (event(3, pipeline_id="nonsense"), Reason.INVALID_ARGUMENT),
        (event(3, payload={"n": float("nan")}), Reason.INVALID_ARGUMENT),
        (event(3, step_id=str(UUID(int=2))), Reason.NOT_LEASED),
        (event(3, step_id="nonsense"), Reason.NOT_LEASED),
    ],
)
def test_what_is_refused_for_itself_uses_up_its_seq(bad: AgentEvent, reason: Reason) -> None:
    decision, stream = decided([bad, event(4)])
    assert reasons(decision) == [reason, None]
    assert decision.passed == [3]
    assert stream.last_seq == 4


def test_what_is_refused_for_itself_stops_at_a_hole_like_anything_else() -> None:
    decision, stream = decided([event(4, size=LARGEST_EVENT + 1)])
    assert reasons(decision) == [Reason.OUT_OF_ORDER]
    assert stream.last_seq == 2


def test_an_event_of_a_step_run_that_is_held_is_stored() -> None:
    decision, _ = decided([event(3, step_id=str(HELD))])
    assert reasons(decision) == [None]


@given(st.data())
def test_an_agent_that_sends_again_what_is_not_acknowledged_ends_with_everything_stored_once(
    data: st.DataObject,
) -> None:
    """Calls cut, doubled, begun anywhere and answered or not: what is stored is always a prefix, and in the end all."""
    bad = data.draw(st.frozensets(st.integers(1, 12)))
    source = [event(seq, size=LARGEST_EVENT + 1 if seq in bad else 10) for seq in range(1, 13)]
    stored: list[AgentEvent] = []
    last_seq = acknowledged = 0
    for _ in range(data.draw(st.integers(0, 12))):
        start = data.draw(st.integers(0, 13))
        sent = source[start : start + data.draw(st.integers(0, 12))]
        sent += data.draw(st.lists(st.sampled_from(source), max_size=4))
        last_seq = _call(stored, last_seq, sent)
        if data.draw(st.booleans()):  # else the answer is lost
            acknowledged = last_seq
        assert [e.seq for e in stored] == [seq for seq in range(1, last_seq + 1) if seq not in bad]
    while acknowledged < len(source):
        acknowledged = last_seq = _call(stored, last_seq, source[acknowledged : acknowledged + 5])
    assert stored == [e for e in source if e.seq not in bad]


def _call(stored: list[AgentEvent], last_seq: int, sent: Sequence[AgentEvent]) -> int:
    stream = EventStream(last_seq, {e.event_id for e in stored})
    decision = decide(stream, sent, set())
    stored += decision.store
    tally = Tally()
    for verdict in decision.verdicts:
        tally.add(verdict)
    result = tally.result(stream.last_seq)
    named = {item.event_id for item, _ in result.rejections}
    assert {e.event_id for e in sent} - named <= {e.event_id for e in stored}
    assert (result.status is AckStatus.ACCEPTED) == (not named)
    return stream.last_seq


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([], AckStatus.ACCEPTED),
        ([None], AckStatus.ACCEPTED),
        ([None, Reason.TOO_LARGE], AckStatus.PARTIAL_ACCEPTED),
        ([Reason.TOO_LARGE], AckStatus.REJECTED),
        ([None, Reason.OUT_OF_ORDER], AckStatus.OUT_OF_ORDER),
    ],
)
def test_the_outcome_of_a_call(verdicts: list[Reason | None], status: AckStatus) -> None:
    tally = Tally()
    for seq, reason in enumerate(verdicts):
        tally.add(Verdict(Item(seq), reason))
    assert tally.result(0).status is status
