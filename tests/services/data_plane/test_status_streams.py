"""Status streams on a real database: the state first, then every change once and in order, over any cut."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from uuid import UUID

import pytest

from arcentra_server.db.engine import Database, new_id
from arcentra_server.db.event_history import own_id
from arcentra_server.db.resource_details import AgentDetail, StepDetail
from arcentra_server.domain.errors import LimitExceeded, NotFound, ValidationError
from arcentra_server.domain.execution import Resource
from arcentra_server.domain.states import AgentStatus, RunStatus, StepStatus
from arcentra_server.domain.watch import Filter
from arcentra_server.services.journal import Journal, StatusStreams, Told
from tests.support import factories

S = StepStatus
STEPS, RUNS, AGENTS = (frozenset({resource}) for resource in (Resource.STEP, Resource.RUN, Resource.AGENT))


@asynccontextmanager
async def serving(database: Database, *, limit: int = 1_000) -> AsyncIterator[Journal]:
    """A journal that is read as the server does."""
    journal = Journal(database, limit=limit)

    async def read() -> None:
        while True:
            await journal.run_once()
            await journal.wait()

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        yield journal
        reading.cancel()


@pytest.fixture
async def journal(database: Database) -> AsyncIterator[Journal]:
    async with serving(database) as journal:
        yield journal


@pytest.fixture
def streams(journal: Journal) -> StatusStreams:
    return StatusStreams(journal)


class Rows:
    """One run of one job, and its steps."""

    def __init__(self, database: Database, journal: Journal, run_id: UUID, job_id: UUID, agent_id: UUID) -> None:
        self.database = database
        self.journal = journal
        self.run_id = run_id
        self.job_id = job_id
        self.agent_id = agent_id

    async def step(self, status: StepStatus = S.PENDING) -> UUID:
        async with self.database.transaction() as tx:
            return await factories.step(tx, self.job_id, status=status, agent_id=self.agent_id)

    async def move(self, step_id: UUID, *statuses: StepStatus) -> None:
        for status in statuses:
            async with self.database.transaction() as tx:
                await factories.set_step(tx, step_id, status)
        self.journal.wake()

    async def end_run(self) -> None:
        async with self.database.transaction() as tx:
            await factories.set_run(tx, self.run_id, RunStatus.SUCCESS)
        self.journal.wake()


@pytest.fixture
async def rows(database: Database, journal: Journal) -> Rows:
    async with database.transaction() as tx:
        agent_id = await factories.agent(tx)
        run_id = await factories.run(tx, await factories.pipeline(tx))
        return Rows(database, journal, run_id, await factories.job(tx, run_id, name="build"), agent_id)


def steps_of(rows: Rows) -> Filter:
    return Filter(STEPS, run_ids=frozenset({rows.run_id}))


def told(messages: Sequence[Told]) -> list[tuple[UUID, str | None, str]]:
    return [(own_id(message.event), message.event.previous, message.event.status) for message in messages]


async def take(streams: StatusStreams, wanted: Filter, count: int, after: str = "") -> list[Told]:
    """The next messages, as of a reader that then goes away."""
    messages: list[Told] = []
    async with aclosing(streams.follow(wanted, after)) as changes:
        async for message in changes:
            messages.append(message)
            if len(messages) == count:
                break
    return messages


async def test_state_then_changes_then_the_end(streams: StatusStreams, rows: Rows) -> None:
    running, pending = await rows.step(S.RUNNING), await rows.step()
    async with aclosing(streams.follow(steps_of(rows))) as changes:
        state = [await anext(changes), await anext(changes)]
        assert set(told(state)) == {(running, None, "RUNNING"), (pending, None, "PENDING")}
        assert all(message.is_state for message in state)
        await rows.move(running, S.SUCCESS)
        await rows.move(pending, S.QUEUED, S.RUNNING, S.FAILED)
        await rows.end_run()
        messages = [message async for message in changes]
    assert told(messages) == [
        (running, "RUNNING", "SUCCESS"),
        (pending, "PENDING", "QUEUED"),
        (pending, "QUEUED", "RUNNING"),
        (pending, "RUNNING", "FAILED"),
    ]
    assert not any(message.is_state for message in messages)
    assert isinstance(messages[0].detail, StepDetail)
    assert messages[0].detail.job_name == "build"


async def test_a_stream_of_something_that_has_ended_tells_its_state_and_ends(
    streams: StatusStreams, rows: Rows
) -> None:
    step_id = await rows.step(S.RUNNING)
    await rows.move(step_id, S.SUCCESS)
    named = Filter(STEPS, ids=frozenset({step_id}))
    assert told([message async for message in streams.follow(named)]) == [(step_id, None, "SUCCESS")]
    await rows.end_run()
    assert told([message async for message in streams.follow(steps_of(rows))]) == [(step_id, None, "SUCCESS")]
    runs = Filter(RUNS, ids=frozenset({rows.run_id}))
    assert told([message async for message in streams.follow(runs)]) == [(rows.run_id, None, "SUCCESS")]


async def test_named_step_runs_end_a_stream_when_the_last_of_them_ends(streams: StatusStreams, rows: Rows) -> None:
    one, two, other = [await rows.step(S.RUNNING) for _ in range(3)]
    async with aclosing(streams.follow(Filter(STEPS, ids=frozenset({one, two})))) as changes:
        assert {own_id((await anext(changes)).event) for _ in range(2)} == {one, two}
        await rows.move(other, S.FAILED)
        await rows.move(two, S.SUCCESS)
        await rows.move(one, S.SUCCESS)
        assert told([message async for message in changes]) == [
            (two, "RUNNING", "SUCCESS"),
            (one, "RUNNING", "SUCCESS"),
        ]


async def test_resuming_tells_what_was_missed_and_then_the_end(
    database: Database, streams: StatusStreams, rows: Rows
) -> None:
    step_id = await rows.step()
    [state] = await take(streams, steps_of(rows), 1)
    await rows.move(step_id, S.QUEUED, S.RUNNING)
    [queued] = await take(streams, steps_of(rows), 1, state.cursor)
    assert told([queued]) == [(step_id, "PENDING", "QUEUED")]
    await rows.move(step_id, S.SUCCESS)
    await rows.end_run()
    rest = [(step_id, "QUEUED", "RUNNING"), (step_id, "RUNNING", "SUCCESS")]
    assert told([message async for message in streams.follow(steps_of(rows), queued.cursor)]) == rest
    async with serving(database) as restarted:
        again = StatusStreams(restarted)
        messages = [message async for message in again.follow(steps_of(rows), queued.cursor)]
        assert told(messages) == rest
        assert [message async for message in again.follow(steps_of(rows), messages[-1].cursor)] == []


async def test_a_state_that_was_cut_off_goes_on_where_it_was(streams: StatusStreams, rows: Rows) -> None:
    ids = sorted([await rows.step(S.RUNNING) for _ in range(3)])
    [first] = await take(streams, steps_of(rows), 1)
    assert own_id(first.event) == ids[0]
    await rows.move(ids[0], S.SUCCESS)
    await rows.move(ids[2], S.FAILED)
    [second] = await take(streams, steps_of(rows), 1, first.cursor)
    assert told([second]) == [(ids[1], None, "RUNNING")]
    await rows.move(ids[1], S.SUCCESS)
    await rows.end_run()
    rest = [message async for message in streams.follow(steps_of(rows), second.cursor)]
    assert told(rest) == [
        (ids[2], None, "FAILED"),
        (ids[0], "RUNNING", "SUCCESS"),
        (ids[1], "RUNNING", "SUCCESS"),
    ]


async def test_filters(database: Database, streams: StatusStreams, rows: Rows) -> None:
    async with database.transaction() as tx:
        other_job = await factories.job(tx, rows.run_id, name="deploy")
        deploy = await factories.step(tx, other_job, status=S.PENDING)
        pipeline_id = await tx.fetchval("SELECT pipeline_id FROM pipeline_runs WHERE id = $1", rows.run_id)
        elsewhere = await factories.run(tx, await factories.pipeline(tx))
        await factories.step(tx, await factories.job(tx, elsewhere), status=S.PENDING)
        finished = await factories.run(tx, pipeline_id, status=RunStatus.SUCCESS)
    build = await rows.step()
    by_name = Filter(STEPS, run_ids=frozenset({rows.run_id}), job_name="deploy")
    assert told(await take(streams, by_name, 1)) == [(deploy, None, "PENDING")]
    by_job = Filter(STEPS, job_ids=frozenset({rows.job_id}))
    assert told(await take(streams, by_job, 1)) == [(build, None, "PENDING")]
    by_pipeline = Filter(RUNS, pipeline_ids=frozenset({pipeline_id}))
    async with aclosing(streams.follow(by_pipeline)) as changes:
        assert own_id((await anext(changes)).event) == rows.run_id  # and not the one that has ended
        await rows.end_run()
        assert told([await anext(changes)]) == [(rows.run_id, "RUNNING", "SUCCESS")]
    async with aclosing(streams.follow(by_name)) as changes:
        assert own_id((await anext(changes)).event) == deploy
        async for _ in changes:
            pytest.fail("its run has ended")
    everything = {resource: Filter(frozenset({resource})) for resource in Resource}
    assert own_id((await take(streams, everything[Resource.RUN], 1))[0].event) == elsewhere
    named = Filter(frozenset(Resource), ids=frozenset({finished, rows.agent_id}))
    assert {own_id(message.event) for message in await take(streams, named, 2)} == {finished, rows.agent_id}


async def test_agents(database: Database, streams: StatusStreams, rows: Rows) -> None:
    async with aclosing(streams.follow(Filter(AGENTS))) as changes:
        state = await anext(changes)
        assert told([state]) == [(rows.agent_id, None, "IDLE")]
        assert isinstance(state.detail, AgentDetail)
        async with database.transaction() as tx:
            await factories.set_agent(tx, rows.agent_id, AgentStatus.OFFLINE)
        assert told([await anext(changes)]) == [(rows.agent_id, "IDLE", "OFFLINE")]


async def test_names_of_nothing(streams: StatusStreams) -> None:
    nothing = frozenset({new_id()})
    for wanted in (
        Filter(STEPS, ids=nothing),
        Filter(STEPS, job_ids=nothing),
        Filter(STEPS, run_ids=nothing),
        Filter(STEPS, pipeline_ids=nothing),
        Filter(frozenset(Resource), ids=nothing),
    ):
        with pytest.raises(NotFound):
            await take(streams, wanted, 1)


async def test_a_cursor_that_is_none(streams: StatusStreams) -> None:
    with pytest.raises(ValidationError):
        await take(streams, Filter(STEPS), 1, "yesterday")


async def test_a_reader_that_is_too_slow_is_told_where_to_go_on(database: Database, rows: Rows) -> None:
    step_id = await rows.step()
    async with serving(database, limit=1) as narrow:
        streams = StatusStreams(narrow)
        async with aclosing(streams.follow(steps_of(rows))) as changes:
            assert (await anext(changes)).is_state
            queued, _ = await asyncio.gather(anext(changes), rows.move(step_id, S.QUEUED))
            await rows.move(step_id, S.RUNNING, S.SUCCESS)
            while narrow.position < queued.event.id + 2:
                await narrow.wait()
            with pytest.raises(LimitExceeded, match=rf"after event {queued.cursor}"):
                await anext(changes)
        rest = await take(streams, steps_of(rows), 2, queued.cursor)
        assert [message.event.status for message in rest] == ["RUNNING", "SUCCESS"]


async def test_readers_that_come_and_go_among_writers_miss_nothing_and_hear_nothing_twice(
    database: Database, streams: StatusStreams, rows: Rows
) -> None:
    """Each reader's messages, over all its cuts, are for each step one state and then exactly what followed it."""
    ids = [await rows.step() for _ in range(24)]
    chance = random.Random(20_260_101)  # noqa: S311 - the same course of things each time

    async def write(mine: Sequence[UUID]) -> None:
        for status in (S.QUEUED, S.RUNNING, S.SUCCESS):
            for step_id in mine:
                async with database.transaction() as tx:
                    await factories.set_step(tx, step_id, status)
                    if chance.random() < 0.2:  # an id of an event that never comes
                        await tx.execute("SELECT nextval(pg_get_serial_sequence('events', 'id'))")
                    await asyncio.sleep(chance.random() * 0.01)
                rows.journal.wake()

    async def read() -> list[Told]:
        messages: list[Told] = []
        while True:
            part = await take(streams, steps_of(rows), chance.randint(1, 20), messages[-1].cursor if messages else "")
            if not part:
                return messages
            messages += part

    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read()) for _ in range(4)]
        await asyncio.gather(*(write(ids[first::4]) for first in range(4)))
        readers += [group.create_task(read()) for _ in range(2)]
        await rows.end_run()
    order = ["PENDING", "QUEUED", "RUNNING", "SUCCESS"]
    for messages in (reader.result() for reader in readers):
        states = {own_id(message.event): message.event.status for message in messages if message.is_state}
        assert Counter(own_id(message.event) for message in messages if message.is_state) == Counter(ids)
        for step_id in ids:
            heard = [m.event.status for m in messages if own_id(m.event) == step_id and not m.is_state]
            assert heard == order[order.index(states[step_id]) + 1 :]
        changes = [message.event.id for message in messages if not message.is_state]
        assert changes == sorted(changes)
