"""Three servers on one database: what one decides is done by the others, once, and the death of one is no loss."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from grpc import aio

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from arcentra_server.db.notify import CHANNEL, Hint
from tests.faults.field import Field, Fleet
from tests.faults.workload import AGAIN, Workload
from tests.support.fault_checker import quiet, violations
from tests.support.fault_evidence import Evidence
from tests.support.postgres import Databases, connected
from tests.support.processes import until
from tests.support.server import Client, Server, start_server
from tests.support.tcp_proxy import tcp_proxy

pytestmark = pytest.mark.slow

Change = tuple[str, str]
"""The state of a step before and after."""

CRON_PIPELINES = 8
UNHURRIED = ("--step-seconds", "0.1", "0.5")
_STEP = {"name": "step", "uses": "shell", "args": {"script": "sim 1.5"}}
MORTAL = {"jobs": [{"name": "one", "retry": AGAIN, "steps": [_STEP]}]}
TICKING = {
    f"ticking-{number}": {
        "jobs": [{"name": "one", "steps": [{**_STEP, "args": {"script": "sim 0.02"}}]}],
        "triggers": [{"type": "cron", "schedule": "0 0 1 1 *"}],
    }
    for number in range(CRON_PIPELINES)
}


@dataclass
class Cluster:
    """Servers `a`, `b` and `c`, and a workload through each."""

    field: Field
    servers: dict[str, Server]
    work: dict[str, Workload]

    @classmethod
    @asynccontextmanager
    async def on(cls, field: Field) -> AsyncIterator[Cluster]:
        """Start three servers at the same moment, each with a data directory of its own and all with one key."""
        key = field.sandbox.root / "secrets.key"
        key.touch(mode=0o600)
        key.write_text(f"key-1 {b64encode(secrets.token_bytes(32)).decode()}\n")
        servers = await asyncio.gather(*(serve(field, name, key) for name in "abc"))
        # The first of them to come made the administrator's token.
        [token] = [server.token for server in servers if (server.data_dir / "admin.token").exists()]
        async with AsyncExitStack() as stack:
            works = []
            for server in servers:
                channel = await stack.enter_async_context(aio.insecure_channel(server.grpc))
                through = copy(field)
                through._server, through._client = server, Client(channel, token)
                works.append(Workload(through))
            await works[0].prepare(mortal=MORTAL, **TICKING)
            for work in works[1:]:
                work._pipelines, work._numbers = works[0]._pipelines, works[0]._numbers
            yield cls(works[0].field, dict(zip("abc", servers, strict=True)), dict(zip("abc", works, strict=True)))

    async def agents(self, number: int, at: str, *options: str, address: str = "") -> Fleet:
        """Start agents that are connected to a server; their names begin with its letter."""
        return await self.field.agents(number, at, address=address or self.servers[at].grpc, options=options)

    async def check(self) -> Evidence:
        """Let every promise be checked, and that each step run was leased once."""
        seen = await quiet(self.field.database, self.field.journals, self.field.history)
        # How many connections are in order is said for one server.
        assert not (found := violations(dataclasses.replace(seen, connections=0))), "\n".join(found)
        leased = [row["step_run_id"] for row in seen.rows["leases"]]
        assert len(leased) == len(set(leased))
        for server in self.servers.values():
            said = server.log.read_text()
            assert "loop_failed" not in said, said[-4_000:]
            assert '"repaired"' not in said, said[-4_000:]
        return seen

    async def changes(self, pipeline: str) -> dict[str, list[Change]]:
        """Return what the database has of the step runs of a pipeline, in order."""
        async with self.field.database.transaction() as tx:
            rows = await tx.fetch(
                """SELECT step_run_id, coalesce(previous_status, '') AS before, status FROM events
                    WHERE resource = 'step' AND pipeline_id = $1 AND status IS DISTINCT FROM previous_status
                    ORDER BY id""",
                UUID(pipeline),
            )
        changes = defaultdict(list)
        for row in rows:
            changes[str(row["step_run_id"])].append((row["before"], row["status"]))
        return changes


async def serve(field: Field, name: str, key: Path | None) -> Server:
    """Start one more server on the database of a field."""
    settings = {
        "ARCENTRA_AGENTS__LEASE_SECONDS": str(field.lease),
        "ARCENTRA_AGENTS__HEARTBEAT_SECONDS": str(field.heartbeat),
        # All tests share one PostgreSQL, which takes 64 connections.
        "ARCENTRA_DATABASE__POOL_SIZE": "6",
        **({"ARCENTRA_SECRETS__KEY_FILE": str(key)} if key else {}),
    }
    server = await start_server(
        field.sandbox.root / f"server-{name}",
        *("--database-url", field.dsn),
        env={**field.sandbox.env, **settings},
    )
    field.sandbox._others.append(server.process)
    return server


@pytest.fixture(scope="module")
async def cluster(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Servers whose agents, at `b` and at `c`, have time: nobody is taken for lost that comes back."""
    root = tmp_path_factory.mktemp("many") / "field"
    async with databases.clone() as dsn, Field.on(root, dsn, 1) as field:
        field.lease, field.heartbeat = 30.0, 1.0
        async with Cluster.on(field) as cluster:
            for at in "bc":
                await cluster.agents(3, at, *UNHURRIED)
            yield cluster


class Watch:
    """A stream of the status of the step runs of a pipeline, at one server."""

    def __init__(self, client: Client, pipeline: str) -> None:
        request = stream_pb2.StreamStepRunStatusRequest(pipeline_id=pipeline)
        self._call = client.stream.StreamStepRunStatus(request, metadata=client.metadata)
        self.changes: dict[str, list[Change]] = defaultdict(list)

    async def until_ended(self, *run_ids: str) -> None:
        """Read until every step of these runs has ended; the plain pipeline has four."""
        missing = dict.fromkeys(run_ids, 4)
        async with asyncio.timeout(90):
            while any(missing.values()):
                told = await self._call.read()
                before, now = _word(told.previous_status), _word(told.status)
                self.changes[told.step_run_id].append((before, now))
                missing[told.pipeline_run_id] = missing.get(told.pipeline_run_id, 0) - (now == "SUCCESS")

    def close(self) -> None:
        self._call.cancel()


def _word(status: int) -> str:
    name = steprun_pb2.StepRunStatus.Name(status).removeprefix("STEP_RUN_STATUS_")  # type: ignore[arg-type]
    return "" if name == "UNSPECIFIED" else name


async def test_agents_of_the_others_run_it_and_a_stream_tells_it_once_and_in_order(cluster: Cluster) -> None:
    plain = cluster.work["a"].pipeline("plain")
    watch = Watch(cluster.field.client, plain)
    first = await cluster.work["b"].trigger("plain")
    await watch.until_ended(first)
    runs = [await cluster.work[at].trigger("plain") for at in "abcaaabbbccc"]
    await watch.until_ended(*runs)
    # Had something been told twice, it were told before the end of what comes last.
    last = await cluster.work["c"].trigger("plain")
    await watch.until_ended(last)
    watch.close()
    seen = await cluster.check()
    assert _ends(seen, first, *runs, last) == ["SUCCESS"] * 14
    assert {_at(seen, row["step_run_id"]) for row in seen.rows["leases"]} == {"b", "c"}
    known = await cluster.changes(plain)
    assert set(watch.changes) == set(known)
    early = {str(row["id"]) for row in seen.rows["step_runs"] if str(row["run_id"]) == first}
    for step, told in watch.changes.items():
        if step in early:  # the stream may have begun in the middle, with the state that was
            assert told[1:] == known[step][len(known[step]) - len(told) + 1 :]
        else:
            assert told == known[step]


async def test_a_trigger_that_is_repeated_at_another_server_is_the_same_run(cluster: Cluster) -> None:
    requests = [
        pipeline_pb2.TriggerPipelineRequest(pipeline_id=cluster.work["a"].pipeline("plain"), request_id="the-same")
    ] * 6
    clients = [work.field.client for work in cluster.work.values()] * 2
    answers = await asyncio.gather(
        *(
            client.pipeline.TriggerPipeline(request, metadata=client.metadata)
            for client, request in zip(clients, requests, strict=True)
        )
    )
    assert len({answer.run_id for answer in answers}) == 1
    await cluster.work["a"].ended(answers[0].run_id)


async def test_a_step_is_cancelled_through_a_server_that_its_agent_is_not_connected_to(cluster: Cluster) -> None:
    run = await cluster.work["a"].running(await cluster.work["a"].trigger("long"))
    [step] = run.job_runs[0].step_runs
    agent = await cluster.field.value(
        "SELECT a.name FROM leases l JOIN agents a ON a.id = l.agent_id WHERE l.step_run_id = $1",
        UUID(step.step_run_id),
    )
    said: asyncio.Queue[str] = asyncio.Queue()
    async with connected(cluster.field.dsn) as connection:
        await connection.add_listener(CHANNEL, lambda *words: said.put_nowait(str(words[3])))
        await cluster.work["c" if str(agent).startswith("b") else "b"].cancel_step(step.step_run_id)
        async with asyncio.timeout(60):
            while Hint.ORDER not in (await said.get()).partition(" ")[2].split(","):
                pass
    await cluster.work["a"].ended(run.run_id)
    seen = await cluster.check()
    assert _ends(seen, run.run_id) == ["CANCELLED"]


async def test_a_tick_fires_once_however_many_servers_look(cluster: Cluster) -> None:
    for ticks in (1, 2, 3):
        due = "UPDATE triggers SET next_at = clock_timestamp() + interval '1 s' WHERE type = 'CRON' RETURNING 1"
        await cluster.field.value(due)
        wanted = ticks * CRON_PIPELINES
        await until(partial(_fired, cluster.field, wanted))
    seen = await cluster.check()
    fired = Counter(row["pipeline_id"] for row in seen.rows["pipeline_runs"] if row["trigger_type"] == "CRON")
    assert list(fired.values()) == [3] * CRON_PIPELINES


async def test_a_server_with_another_key_of_secrets_says_so_at_its_start(cluster: Cluster) -> None:
    logs = [server.log.read_text() for server in cluster.servers.values()]
    assert not any("secrets_key_differs" in log for log in logs)
    other = await serve(cluster.field, "other", None)
    await other.stop()
    said = other.log.read_text()
    assert "secrets_key_differs" in said
    assert "give every server of this database the same secrets.key_file" in said


async def test_steps_go_on_when_the_server_of_their_agents_is_killed(cluster: Cluster) -> None:
    """The last test of this cluster: one of its servers is gone then."""
    [idle] = [fleet for fleet in cluster.field.fleets if fleet.name == "c"]
    await idle.kill()
    async with tcp_proxy(cluster.servers["c"].grpc) as balancer:
        agents = await cluster.agents(3, "c", *UNHURRIED, address=balancer.address)
        runs = [await cluster.work[at].trigger("plain") for at in "abc" * 6]
        await until(partial(_served, cluster.field, runs))
        balancer.target, before = cluster.servers["b"].grpc, balancer.accepted
        await cluster.servers["c"].kill()
        more = [await cluster.work[at].trigger("plain") for at in "ab" * 3]
        await cluster.work["a"].ended(*runs, *more)
        assert balancer.accepted >= before + 3
        seen = await cluster.check()
        await agents.kill()
    assert _ends(seen, *runs, *more) == ["SUCCESS"] * 24
    assert all(row["attempt"] == 1 for row in seen.rows["step_runs"]), "a step was taken for lost"


async def test_steps_of_lost_agents_are_given_up_once(dsn: str, tmp_path: Path) -> None:
    async with Field.on(tmp_path / "field", dsn, 1) as field:
        field.lease, field.heartbeat = 3.0, 1.0
        async with Cluster.on(field) as cluster:
            mortals = await cluster.agents(1, "c", "--slots", "6")
            runs = [await cluster.work["a"].trigger("mortal") for _ in range(6)]
            for run in runs:
                await cluster.work["a"].running(run)
            await mortals.kill()
            await cluster.agents(2, "b")
            await cluster.work["a"].ended(*runs)
            await cluster.check()
            known = await cluster.changes(cluster.work["a"].pipeline("mortal"))
    ends = sorted(changes[-1][1] for changes in known.values())
    assert ends == ["FAILED"] * 6 + ["SUCCESS"] * 6
    assert all(len(set(changes)) == len(changes) for changes in known.values())


async def _fired(field: Field, runs: int) -> bool:
    return int(str(await field.value("SELECT count(*) FROM pipeline_runs WHERE trigger_type = 'CRON'"))) >= runs


async def _served(field: Field, run_ids: Sequence[str]) -> bool:
    """Answer whether an agent at `c` is at work on one of these runs."""
    return bool(
        await field.value(
            """SELECT count(*) FROM step_runs s JOIN agents a ON a.id = s.agent_id
                WHERE s.status = 'RUNNING' AND a.name LIKE 'c%' AND s.run_id = ANY($1::uuid[])""",
            list(run_ids),
        )
    )


def _ends(seen: Evidence, *run_ids: str) -> list[str]:
    """Return how different runs ended."""
    return [str(row["status"]) for row in seen.rows["pipeline_runs"] if str(row["id"]) in set(run_ids)]


def _at(seen: Evidence, step_run_id: UUID) -> str:
    """Return the server whose agent ran a step."""
    [agent] = [row["agent_id"] for row in seen.rows["leases"] if row["step_run_id"] == step_run_id]
    [name] = [row["name"] for row in seen.rows["agents"] if row["id"] == agent]
    return str(name)[0]
