"""What the start of a run knows without looking: definitions that were read before, and the agents of a second ago."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import ClassVar
from uuid import UUID

import pytest

from arcentra_server.db import new_runs, pipelines, run_starter
from arcentra_server.db.embedded import EmbeddedPostgres
from arcentra_server.db.engine import Database, Tx
from arcentra_server.db.known_fleet import KNOWN_SECONDS, LOOKS_AT_ONCE, KnownFleet
from arcentra_server.db.known_specs import KnownSpecs
from arcentra_server.domain.definition import JobSpec, PipelineSpec, StageSpec, StepSpec
from arcentra_server.domain.errors import Unavailable
from arcentra_server.domain.fleet import NO_AGENT
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.domain.states import TriggerType
from arcentra_server.services.pipelines import PipelineChange
from tests.support.freezer import Freezer
from tests.support.shapes import shape
from tests.support.world import World
from tests.support.written import spec_of


@pytest.fixture
async def world(dsn: str) -> AsyncIterator[World]:
    async with World(dsn) as world:
        yield world


async def spec_in_force(world: World, pipeline_id: UUID, specs: KnownSpecs) -> tuple[int, PipelineSpec]:
    async with world.database.transaction() as tx:
        row = await pipelines.count_run(tx, pipeline_id, specs)
    assert row is not None
    return row.spec_version, row.spec


async def emptied(world: World, pipeline_id: UUID, digest: bytes | None = None) -> None:
    """Write another document where a definition is, so that it is seen whether it is read."""
    await world.sql(
        """UPDATE pipeline_specs SET document = '{"stages": []}', digest = coalesce($2, digest)
            WHERE pipeline_id = $1""",
        pipeline_id,
        digest,
    )


async def test_version_that_was_read_is_not_read_again(world: World) -> None:
    specs, pipeline = KnownSpecs(), await world.pipeline(shape(". ."))
    assert await spec_in_force(world, pipeline, specs) == (1, shape(". ."))
    await emptied(world, pipeline)
    assert await spec_in_force(world, pipeline, specs) == (1, shape(". ."))
    await world.server.pipelines.update(pipeline, PipelineChange(stages=shape(".").stages), "ann")
    assert await spec_in_force(world, pipeline, specs) == (2, replace(shape(". ."), stages=shape(".").stages))


async def test_version_of_another_digest_is_read(world: World) -> None:
    specs, pipeline = KnownSpecs(), await world.pipeline(shape(". ."))
    await spec_in_force(world, pipeline, specs)
    await emptied(world, pipeline, b"another")
    assert (await spec_in_force(world, pipeline, specs))[1].stages == ()


async def test_definition_that_was_not_used_for_long_is_forgotten(world: World) -> None:
    known = [await world.pipeline(shape(".")) for _ in range(3)]
    sizes = [len(row["text"]) for row in await world.sql("SELECT document::text AS text FROM pipeline_specs")]
    specs = KnownSpecs(most_characters=2 * max(sizes))
    for pipeline in (known[0], known[1], known[0], known[2]):
        await spec_in_force(world, pipeline, specs)
    for pipeline in known:
        await emptied(world, pipeline)
    assert (await spec_in_force(world, known[0], specs))[1] == shape(".")
    assert (await spec_in_force(world, known[2], specs))[1] == shape(".")
    assert (await spec_in_force(world, known[1], specs))[1].stages == ()


async def test_definition_that_is_larger_than_all_that_is_kept_pushes_nothing_out(world: World) -> None:
    small, large = await world.pipeline(shape(".")), await world.pipeline(shape(". . ."))
    size = await world.value("SELECT length(document::text) FROM pipeline_specs WHERE pipeline_id = $1", small)
    specs = KnownSpecs(most_characters=size)
    for pipeline in (small, large):
        await spec_in_force(world, pipeline, specs)
        await emptied(world, pipeline)
    assert (await spec_in_force(world, small, specs))[1] == shape(".")
    assert (await spec_in_force(world, large, specs))[1].stages == ()


async def test_run_has_the_definition_that_came_into_force_while_it_waited(world: World) -> None:
    specs, pipeline = KnownSpecs(), await world.pipeline(shape("."))
    await spec_in_force(world, pipeline, specs)
    locked = asyncio.Event()

    async def change() -> None:
        async with world.database.transaction() as tx:
            row = await pipelines.get(tx, pipeline, lock=True)
            assert row is not None
            await pipelines.insert_spec(tx, pipeline, 2, shape(". ."), "ann")
            await pipelines.update(tx, pipeline, name=row.name, description="", enabled=True, spec_version=2)
            locked.set()
            while not await tx.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                pass  # the other one is on its way to the lock

    async def start() -> tuple[int, PipelineSpec]:
        await locked.wait()
        return await spec_in_force(world, pipeline, specs)

    _, found = await asyncio.gather(change(), start())
    assert found == (2, shape(". ."))
    assert await spec_in_force(world, pipeline, specs) == (2, shape(". ."))


LINUX = """
    jobs:
      - name: a
        agent_selector: {match_labels: {os: linux}}
        steps: [{name: a1, uses: shell, args: {script: a}}]
"""


@pytest.mark.parametrize("spec", [shape("."), spec_of(LINUX)], ids=["no labels", "labels"])
async def test_agents_that_come_and_go_are_seen(world: World, spec: PipelineSpec) -> None:
    now = [0.0]
    fleet = KnownFleet(lambda: now[0])

    async def messages() -> list[str]:
        return [fault.message for fault in await fleet.warnings(world.server.store, spec)]

    assert NO_AGENT in (await messages())[0]
    assert NO_AGENT in (await messages())[0]
    agent_id = await world.agent("x", os="linux")
    assert await messages() == []
    await world.sql("UPDATE agents SET disabled = true WHERE id = $1", agent_id)
    now[0] += KNOWN_SECONDS / 2
    assert await messages() == []
    now[0] += KNOWN_SECONDS / 2
    assert NO_AGENT in (await messages())[0]


async def test_labels_count_for_who_asks_for_them_only(world: World) -> None:
    fleet = KnownFleet(lambda: 0.0)
    await world.agent("a", os="windows")
    await world.agent("b", os="linux")
    assert await fleet.warnings(world.server.store, shape(".")) == []
    assert await fleet.warnings(world.server.store, spec_of(LINUX)) == []
    await world.sql("UPDATE agents SET disabled = true WHERE name = 'b'")
    now_alone = KnownFleet(lambda: 0.0)
    assert await now_alone.warnings(world.server.store, shape(".")) == []
    assert len(await now_alone.warnings(world.server.store, spec_of(LINUX))) == 1


@asynccontextmanager
async def agents_locked(world: World) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Let nobody look at the agents; yields what waits until somebody wants to, and returns the process of theirs."""
    async with world.database.transaction() as tx:
        await tx.execute("LOCK TABLE agents IN ACCESS EXCLUSIVE MODE")

        async def waits() -> int:
            while True:
                if pid := await tx.fetchval("SELECT pid FROM pg_locks WHERE NOT granted"):
                    return int(pid)

        yield waits


async def test_nothing_is_locked_while_the_agents_are_looked_at(world: World) -> None:
    pipeline = await world.pipeline(spec_of(LINUX))
    async with asyncio.TaskGroup() as group, agents_locked(world) as waits:
        start = group.create_task(world.server.starter.start(pipeline, Trigger(TriggerType.MANUAL, "ann")))
        await waits()
        [run] = await world.sql("SELECT id FROM pipeline_runs")
        await world.sql("SELECT 1 FROM pipelines FOR UPDATE NOWAIT")
    started = start.result()
    assert (started.run_id, [fault.message for fault in started.warnings]) == (run["id"], [NO_AGENT])


async def test_run_that_is_there_is_told_when_the_agents_cannot_be_looked_at(world: World) -> None:
    pipeline = await world.pipeline(spec_of(LINUX))
    trigger = Trigger(TriggerType.MANUAL, "ann", variables={"UNHEARD_OF": "x"})
    async with asyncio.TaskGroup() as group, agents_locked(world) as waits:
        start = group.create_task(world.server.starter.start(pipeline, trigger))
        await world.sql("SELECT pg_terminate_backend($1)", await waits())
        started = await start
    [run] = await world.sql("SELECT id FROM pipeline_runs")
    assert started.run_id == run["id"]
    assert ["UNHEARD_OF" in fault.message for fault in started.warnings] == [True]


async def test_run_that_is_there_is_told_though_the_database_hangs_by_then(
    world: World, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its call would end with its deadline, as if there were no run."""
    monkeypatch.setattr(run_starter, "LOOK_SECONDS", 2.0)
    pipeline = await world.pipeline(spec_of(LINUX))
    async with asyncio.TaskGroup() as group, agents_locked(world) as waits:
        start = group.create_task(world.server.starter.start(pipeline, Trigger(TriggerType.MANUAL, "ann")))
        await waits()
        with Freezer(postgres.pid) as freezer:
            freezer.freeze()
            started = await start
            assert freezer.frozen.is_set(), "the run was told when the database went on"
    [run] = await world.sql("SELECT id FROM pipeline_runs")
    assert (started.run_id, started.warnings) == (run["id"], [])


async def test_run_that_is_there_is_told_though_the_agents_cannot_be_read(world: World) -> None:
    pipeline = await world.pipeline(spec_of(LINUX))
    agent_id = await world.agent("x")
    await world.sql("UPDATE agents SET claimed_labels = '7' WHERE id = $1", agent_id)
    started = await world.server.starter.start(pipeline, Trigger(TriggerType.MANUAL, "ann"))
    [run] = await world.sql("SELECT id FROM pipeline_runs")
    assert (started.run_id, started.warnings) == (run["id"], [])


class Watched(Term):
    """A condition that notes in which thread an agent is held against it."""

    threads: ClassVar[Counter[str]] = Counter()

    def matches(self, labels: Mapping[str, str]) -> bool:
        self.threads["loop" if threading.current_thread() is threading.main_thread() else "other"] += 1
        return super().matches(labels)


async def test_thousands_of_agents_are_looked_at_in_a_thread(world: World) -> None:
    await world.agent("a", os="linux")
    await world.sql(
        """INSERT INTO agents (id, name, ip, os, arch, version, capacity, claimed_labels, server_labels, approved)
           SELECT gen_random_uuid(), 'b' || n, ip, os, arch, version, capacity, claimed_labels, server_labels, approved
             FROM agents, generate_series(1, $1::int) n""",
        LOOKS_AT_ONCE,
    )
    fleet = KnownFleet(lambda: 0.0)
    linux, arm = (
        PipelineSpec((StageSpec("d", (JobSpec("j", (StepSpec("s", "shell"),), selector=Selector((term,))),)),))
        for term in (Watched("os", Operator.IN, ("linux",)), Watched("arch", Operator.IN, ("arm64",)))
    )
    for times in (2, 0):
        Watched.threads.clear()
        assert await fleet.warnings(world.server.store, linux) == []
        assert Watched.threads == {"loop": 1}
        Watched.threads.clear()
        [warning] = await fleet.warnings(world.server.store, arm)
        assert "nearest is `a`, which lacks arch=arm64" in warning.message
        # In a thread once to find out, once to tell what the nearest agent lacks, and not again for who comes next.
        assert Watched.threads["loop"] <= LOOKS_AT_ONCE
        assert Watched.threads["other"] == times * (LOOKS_AT_ONCE + 1)


async def test_what_could_be_served_a_moment_ago_is_not_held_against_the_agents_of_now(world: World) -> None:
    fleet = KnownFleet(lambda: 0.0)
    spec = spec_of(LINUX + LINUX.replace("jobs:", "").replace("name: a", "name: b").replace("linux", "plan9"))
    agent_id = await world.agent("x", os="linux")
    for _ in range(2):
        assert [fault.path for fault in await fleet.warnings(world.server.store, spec)] == ["jobs[1].agent_selector"]
        await world.sql("UPDATE agents SET claimed_labels = '{}' WHERE id = $1", agent_id)


class CountedDatabase(Database):
    """A database that counts how often it is asked."""

    count: ClassVar[int] = 0

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[Tx]:
        CountedDatabase.count += 1
        async with super().statements() as tx:
            yield tx

    @classmethod
    def take(cls) -> int:
        """Return how often since the last time."""
        cls.count, count = 0, cls.count
        return count


@pytest.fixture
async def counted(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A world whose database counts."""
    monkeypatch.setattr("tests.support.world.Database", CountedDatabase)
    async with World(dsn) as world:
        yield world


@pytest.mark.parametrize("spec", [shape("."), spec_of(LINUX)], ids=["no labels", "labels"])
async def test_who_comes_together_is_warned_by_one_look(counted: World, spec: PipelineSpec) -> None:
    now = [0.0]
    fleet, store = KnownFleet(lambda: now[0]), counted.server.store
    CountedDatabase.take()
    together = await asyncio.gather(*(fleet.warnings(store, spec) for _ in range(20)))
    assert [[NO_AGENT in fault.message for fault in warnings] for warnings in together] == [[True]] * 20
    assert CountedDatabase.take() == 1
    now[0] += KNOWN_SECONDS / 2
    assert len(await fleet.warnings(store, spec)) == 1
    assert CountedDatabase.take() == 0, "it is as good a moment later"
    now[0] += KNOWN_SECONDS / 2
    assert len(await fleet.warnings(store, spec)) == 1
    assert CountedDatabase.take() == 1
    await counted.agent("x", os="linux")
    CountedDatabase.take()
    assert await fleet.warnings(store, spec) == []
    assert CountedDatabase.take() == 1, "what came through this server is never missed"


async def test_who_comes_while_an_agent_does_waits_for_a_look_of_its_own(counted: World) -> None:
    fleet, store = KnownFleet(lambda: 0.0), counted.server.store
    async with asyncio.TaskGroup() as group, agents_locked(counted) as waits:
        before = group.create_task(fleet.warnings(store, shape(".")))
        await waits()
        store.announce_new_work()
        CountedDatabase.take()
        after = [group.create_task(fleet.warnings(store, shape("."))) for _ in range(5)]
    assert [len(task.result()) for task in (before, *after)] == [1] * 6
    assert CountedDatabase.take() == 1


async def test_look_that_fails_fails_all_that_wait_for_it_and_nobody_later(counted: World) -> None:
    now = [0.0]
    fleet, store = KnownFleet(lambda: now[0]), counted.server.store
    async with agents_locked(counted) as waits:
        calls = asyncio.gather(*(fleet.warnings(store, shape(".")) for _ in range(5)), return_exceptions=True)
        pid = await waits()
        CountedDatabase.take()
        await counted.sql("SELECT pg_terminate_backend($1)", pid)
        ends = await calls
    assert [type(end) for end in ends] == [Unavailable] * 5
    assert CountedDatabase.take() == 1, "that was to end the look"
    now[0] += 0.001
    assert len(await fleet.warnings(store, shape("."))) == 1


async def told_of_start(world: World, pipeline_id: UUID) -> list[dict[str, object]]:
    """Return the events of the start of a run in their order, with names instead of ids."""
    run = await world.trigger(pipeline_id)
    rows = await world.sql(
        """SELECT e.resource, e.status, e.previous_status, e.total, e.completed, e.failed, e.running, e.current, e.message,
                  e.actor, e.waiting, e.agent_id, e.pipeline_id = $2 AS of_pipeline, j.name AS job, s.name AS step
             FROM events e LEFT JOIN job_runs j ON j.id = e.job_run_id LEFT JOIN step_runs s ON s.id = e.step_run_id
            WHERE e.run_id = $1 ORDER BY e.id""",
        run.id,
        pipeline_id,
    )
    return [dict(row) for row in rows]


async def test_few_events_and_many_are_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = await world.pipeline(".. ?.[needs=a] | *")
    few = await told_of_start(world, pipeline)
    monkeypatch.setattr(new_runs, "FEW_EVENTS", len(few) - 1)
    assert await told_of_start(world, pipeline) == few
    assert [(event["resource"], event["job"], event["step"], event["waiting"]) for event in few] == [
        ("run", None, None, ""),
        ("job", "a", None, "queue"),
        ("step", "a", "a1", "agent"),
        ("step", "a", "a2", "previous_step"),
        ("job", "b", None, "needs"),
        ("step", "b", "b1", "needs"),
        ("step", "b", "b2", "needs"),
        ("job", "c", None, "stage"),
        ("step", "c", "c1", "stage"),
    ]
    assert {event["actor"] for event in few} == {"tester"}
