import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from arcentra_server.db.engine import Database
from arcentra_server.domain.event_order import LARGEST_EVENT, AgentEvent
from arcentra_server.domain.ingest import AckStatus, IngestResult, Reason
from arcentra_server.services.agent_events import AgentEventService
from tests.support import factories

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture
async def service(database: Database) -> AsyncIterator[AgentEventService]:
    service = AgentEventService(database)
    async with asyncio.TaskGroup() as group:
        group.create_task(service.run())
        yield service
        service.close()


@pytest.fixture
async def agent_id(database: Database) -> UUID:
    async with database.transaction() as tx:
        return await factories.agent(tx)


def event(seq: int, event_id: str = "", *, step_id: str = "", size: int = 50) -> AgentEvent:
    return AgentEvent(
        seq, event_id or f"e{seq}", "cache.hit", step_id=step_id, payload={"n": seq}, occurred_at=AT, size=size
    )


async def push(service: AgentEventService, agent_id: UUID, *batches: Sequence[AgentEvent]) -> IngestResult:
    async def each() -> AsyncIterator[Sequence[AgentEvent]]:
        for batch in batches:
            yield batch

    return await service.append(agent_id, each())


async def stored(database: Database, agent_id: UUID) -> list[tuple[int, str]]:
    async with database.transaction() as tx:
        rows = await tx.fetch(
            "SELECT seq, event_id, payload, occurred_at FROM agent_events WHERE agent_id = $1 AND event_type <> '' ORDER BY seq",
            agent_id,
        )
    assert all(row["payload"] == {"n": row["seq"]} and row["occurred_at"] == AT for row in rows)
    return [(row["seq"], row["event_id"]) for row in rows]


async def test_events_are_stored_once_and_in_order(
    database: Database, service: AgentEventService, agent_id: UUID
) -> None:
    result = await push(service, agent_id, [event(1), event(2)], [event(2), event(3)])
    assert (result.status, result.last_seq, result.rejections) == (AckStatus.ACCEPTED, 3, ())
    again = await push(service, agent_id, [event(seq) for seq in range(1, 6)])
    assert (again.status, again.last_seq, again.expected_seq) == (AckStatus.ACCEPTED, 5, 6)
    assert await stored(database, agent_id) == [(seq, f"e{seq}") for seq in range(1, 6)]


async def test_a_call_without_events_tells_what_the_server_has(service: AgentEventService, agent_id: UUID) -> None:
    assert (await push(service, agent_id)).expected_seq == 1
    await push(service, agent_id, [event(1), event(2)])
    assert (await push(service, agent_id)).expected_seq == 3


async def test_a_hole_stops_what_follows_and_names_the_seq_that_is_wanted(
    database: Database, service: AgentEventService, agent_id: UUID
) -> None:
    result = await push(service, agent_id, [event(1), event(3)], [event(4)])
    assert (result.status, result.expected_seq) == (AckStatus.OUT_OF_ORDER, 2)
    assert [(item.seq, item.event_id, reason) for item, reason in result.rejections] == [
        (3, "e3", Reason.OUT_OF_ORDER),
        (4, "e4", Reason.OUT_OF_ORDER),
    ]
    assert (await push(service, agent_id, [event(2), event(3), event(4)])).status is AckStatus.ACCEPTED
    assert await stored(database, agent_id) == [(seq, f"e{seq}") for seq in range(1, 5)]


async def test_refused_events_are_named_and_do_not_hold_up_others_not_even_in_the_next_call(
    database: Database, service: AgentEventService, agent_id: UUID
) -> None:
    result = await push(service, agent_id, [event(1), event(2, size=LARGEST_EVENT + 1)])
    assert (result.status, result.last_seq) == (AckStatus.PARTIAL_ACCEPTED, 2)
    assert [(item.seq, item.event_id, reason) for item, reason in result.rejections] == [(2, "e2", Reason.TOO_LARGE)]
    assert (await push(service, agent_id, [event(3)])).status is AckStatus.ACCEPTED
    assert await stored(database, agent_id) == [(1, "e1"), (3, "e3")]


async def test_another_event_under_a_stored_seq_is_refused(service: AgentEventService, agent_id: UUID) -> None:
    await push(service, agent_id, [event(1)])
    result = await push(service, agent_id, [event(1, "impostor")])
    assert (result.status, result.expected_seq) == (AckStatus.REJECTED, 2)
    assert [reason for _, reason in result.rejections] == [Reason.DUPLICATE_SEQ]


async def test_an_event_that_comes_back_under_a_new_seq_is_not_stored_again(
    database: Database, service: AgentEventService, agent_id: UUID
) -> None:
    await push(service, agent_id, [event(1)])
    renumbered = replace(event(1), seq=2)
    assert (await push(service, agent_id, [renumbered, event(3)])).status is AckStatus.ACCEPTED
    assert await stored(database, agent_id) == [(1, "e1"), (3, "e3")]


async def test_events_of_step_runs_that_are_not_held_are_refused(
    database: Database, service: AgentEventService, agent_id: UUID
) -> None:
    async with database.transaction() as tx:
        other = await factories.agent(tx)
        job_id = await factories.job(tx, await factories.run(tx, await factories.pipeline(tx)))
        step_id = await factories.step(tx, job_id, agent_id=agent_id)
    assert (await push(service, agent_id, [event(1, step_id=str(step_id))])).status is AckStatus.ACCEPTED
    result = await push(service, other, [event(1, step_id=str(step_id)), event(2)])
    assert [(item.seq, item.step_id, reason) for item, reason in result.rejections] == [
        (1, str(step_id), Reason.NOT_LEASED)
    ]
    assert await stored(database, other) == [(2, "e2")]


async def test_many_agents_and_doubled_calls_at_once(database: Database, service: AgentEventService) -> None:
    async with database.transaction() as tx:
        agents = [await factories.agent(tx) for _ in range(8)]
    calls = [(agent_id, [event(seq) for seq in range(1, 41)]) for agent_id in agents]
    results = await asyncio.gather(*(push(service, agent_id, batch) for agent_id, batch in calls * 3))
    assert {(result.status, result.last_seq) for result in results} == {(AckStatus.ACCEPTED, 40)}
    for agent_id in agents:
        assert await stored(database, agent_id) == [(seq, f"e{seq}") for seq in range(1, 41)]


async def test_two_processes_take_turns_for_one_agent(
    database: Database, service: AgentEventService, agent_id: UUID
) -> None:
    other = AgentEventService(database)
    async with asyncio.TaskGroup() as group:
        group.create_task(other.run())
        batch = [event(seq) for seq in range(1, 41)]
        results = await asyncio.gather(*(push(one, agent_id, batch) for one in (service, other) * 10))
        other.close()
    assert {result.status for result in results} == {AckStatus.ACCEPTED}
    assert len(await stored(database, agent_id)) == 40
