"""Which events of an agent are stored: each exactly once, in the order of a seq without holes.

An event that is refused for what it is (malformed, too large, not its agent's step run) still uses up its seq: the
agent can do nothing about it but drop it, and a seq that never passes would hold up everything behind it. So such an
event is named in the answer and its place is marked as passed. So is the place of an event that is stored already under
another seq. Only a seq that has not come at all stops what follows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from arcentra_server.domain.field_checks import check_args
from arcentra_server.domain.ids import parse_id
from arcentra_server.domain.ingest import Item, Reason, Verdict

LARGEST_EVENT = 64 * 1024
# No spaces: the ids of places that are passed have one, so that no event's id is ever taken by them.
_EVENT_ID = re.compile(r"[\x21-\x7e]{1,128}")
_EVENT_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """An event as an agent sends it. `size`: bytes of the whole of it on the wire."""

    seq: int
    event_id: str
    event_type: str
    pipeline_id: str = ""
    step_id: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)
    occurred_at: datetime | None = None
    size: int = 0

    @property
    def item(self) -> Item:
        return Item(self.seq, self.event_id, self.step_id)

    @property
    def step(self) -> UUID | None:
        """The step run it is about, None when there is none or its id is not one."""
        return parse_id(self.step_id) if self.step_id else None


@dataclass(slots=True)
class EventStream:
    """What is stored of an agent's events: the last seq, and which of the ids that matter are known."""

    last_seq: int = 0
    known: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Decision:
    """The events to store, the places to mark as passed, and a verdict for each event, in their order."""

    store: list[AgentEvent] = field(default_factory=list)
    passed: list[int] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)


def decide(stream: EventStream, events: Iterable[AgentEvent], held: Collection[UUID]) -> Decision:
    """Decide on events in the order in which they came, and bring `stream` up to date.

    Args:
        stream: What is stored; `known` says of each id among the events whether it is.
        events: What came.
        held: The step runs that the agent holds or held.
    """
    decision = Decision()
    for event in events:
        following = event.seq == stream.last_seq + 1
        reason = _refusal(stream, event, held)
        if following:
            stream.last_seq = event.seq
            if reason is None and event.event_id not in stream.known:
                stream.known.add(event.event_id)
                decision.store.append(event)
            else:
                decision.passed.append(event.seq)
        decision.verdicts.append(Verdict(event.item, reason))
    return decision


def _refusal(stream: EventStream, event: AgentEvent, held: Collection[UUID]) -> Reason | None:
    if event.seq > stream.last_seq + 1:
        return Reason.OUT_OF_ORDER
    if event.event_id in stream.known:
        return None
    fault = _fault(event, held)
    if fault is None and event.seq <= stream.last_seq:
        return Reason.DUPLICATE_SEQ
    return fault


def _fault(event: AgentEvent, held: Collection[UUID]) -> Reason | None:
    if event.size > LARGEST_EVENT:
        return Reason.TOO_LARGE
    if event.seq < 1 or not _EVENT_ID.fullmatch(event.event_id) or not _EVENT_TYPE.fullmatch(event.event_type):
        return Reason.INVALID_ARGUMENT
    if event.pipeline_id and parse_id(event.pipeline_id) is None:
        return Reason.INVALID_ARGUMENT
    if event.step_id and event.step not in held:
        return Reason.NOT_LEASED
    return Reason.INVALID_ARGUMENT if check_args(event.payload, "payload") else None
