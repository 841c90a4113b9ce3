"""The channel of an agent, without gRPC, and what is left of it when it ends."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from arcentra_api.agent.v1 import agent_pb2
from arcentra_server.db.engine import new_id
from arcentra_server.domain.errors import Unavailable
from arcentra_server.domain.standing import Settings
from arcentra_server.rpc.channels import AgentChannels
from arcentra_server.rpc.connection import Connection
from arcentra_server.rpc.parts import AgentParts
from tests.support.world import World

_WAITING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1"
)


def _parts(world: World) -> AgentParts:
    server = world.server
    return AgentParts(
        server.agents,
        server.arrivals,
        server.dispatch,
        server.reports,
        AgentChannels(),
        server.bell,
        Settings(heartbeat_ms=10_000, lease_ms=30_000),
    )


async def _waiting(world: World, query: str) -> int:
    """Return the process of the database in which such a query waits for a lock, once one does."""
    while True:
        if rows := await world.sql(_WAITING, query):
            pid: int = rows[0]["pid"]
            return pid
        await asyncio.sleep(0.01)


async def test_heartbeat_of_a_channel_that_has_ended_fails_without_a_word(world: World) -> None:
    """The agent refuses a step run with it: the channel ends while that is taken back, and nobody asks for the heartbeat."""
    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(str(context["message"])))
    agent = await world.agent("x")
    token_id = await world.value("SELECT id FROM tokens WHERE agent_id = $1", agent)
    let_in, locked = asyncio.Event(), asyncio.Event()

    async def messages() -> AsyncIterator[agent_pb2.ConnectRequest]:
        heartbeat = agent_pb2.ConnectHeartbeat(max_concurrent_step_runs=1)
        yield agent_pb2.ConnectRequest(agent_id=str(agent), sequence=1, heartbeat=heartbeat)
        let_in.set()
        await locked.wait()
        ack = agent_pb2.TaskAck(command_id=str(new_id()), status=agent_pb2.ACK_STATUS_FAILED)
        yield agent_pb2.ConnectRequest(agent_id=str(agent), sequence=2, heartbeat=heartbeat, task_acks=[ack])

    async def write(_: agent_pb2.ConnectResponse) -> None:
        pass

    async with asyncio.TaskGroup() as group, world.database.transaction() as tx:
        channel = group.create_task(Connection(_parts(world), agent, token_id, write).run(messages()))
        await let_in.wait()
        await tx.execute("LOCK TABLE leases IN ACCESS EXCLUSIVE MODE")
        locked.set()
        renewal = await _waiting(world, "WITH heard%")
        channel.cancel()
        await asyncio.wait([channel])
        del channel
        after = world.server.agents.heartbeat(agent)  # fails with it
        await world.sql("SELECT pg_terminate_backend($1)", renewal)
        with pytest.raises(Unavailable):
            await after
    gc.collect()
    assert faults == []
