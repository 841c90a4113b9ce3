"""What the server says no to does not stay in its memory, with its own settings of the garbage collector in force.

Each kind of call sends large messages to the server process, whose resident memory must grow by a fraction of them.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.gateway.v1 import gateway_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from tests.support.server import Client, Server, client_of

MESSAGE = 1 << 20  # bytes of each large message
CALLS = 64
WARM_UP = 12  # calls, after which buffers and pools are as large as they get
TEXT = "x" * MESSAGE

Refused = Callable[[Client, str], Awaitable[grpc.StatusCode]]


def resident(server: Server) -> int:
    """Return the bytes of memory that the process of a server has."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


async def end_after(call: Any, *messages: Any) -> grpc.StatusCode:
    """Write messages to a call; return the status with which the server ends it, at the latest after the last."""
    with suppress(aio.AioRpcError):  # it can be known before that the last was sent
        for message in messages:
            await call.write(message)
    code: grpc.StatusCode = await call.code()
    return code


async def unary(agent: Client, _: str) -> grpc.StatusCode:
    """A large request without a credential."""
    return await end_after(agent.agent.Heartbeat(agent_pb2.HeartbeatRequest(metrics={"load": TEXT})))


async def malformed(agent: Client, _: str) -> grpc.StatusCode:
    """A large request, without a credential, that cannot be parsed."""
    call: Any = agent.channel.unary_unary("/agent.v1.AgentService/Register")
    return await end_after(call(b"\xff" * MESSAGE))


async def reading(agent: Client, _: str) -> grpc.StatusCode:
    """A large request, without a credential, to be answered with a stream."""
    return await end_after(agent.stream.StreamStepRunLogs(stream_pb2.StreamStepRunLogsRequest(step_run_id=TEXT)))


async def logs(agent: Client, agent_id: str) -> grpc.StatusCode:
    """A large batch that is not what it says."""
    meta = gateway_pb2.Meta(step_id=agent_id, seq=1)
    zstd = gateway_pb2.LogBatch.COMPRESSION_ZSTD
    batch = gateway_pb2.LogBatch(meta=meta, batch_id="1", compression=zstd, data=TEXT.encode(), raw_size=7)
    hello = gateway_pb2.PushLogsRequest(handshake=gateway_pb2.AgentHandshake(agent_id=agent_id))
    pushing = agent.gateway.PushLogs(metadata=agent.metadata)
    return await end_after(pushing, hello, gateway_pb2.PushLogsRequest(batch=batch))


async def events(agent: Client, agent_id: str) -> grpc.StatusCode:
    """A large batch with an event of another agent."""
    event = gateway_pb2.Event(event_id="1", event_type=TEXT, meta=gateway_pb2.Meta(agent_id="another", seq=1))
    hello = gateway_pb2.PushEventsRequest(handshake=gateway_pb2.AgentHandshake(agent_id=agent_id))
    batch = gateway_pb2.EventBatch(batch_id="1", events=[event])
    pushing = agent.gateway.PushEvents(metadata=agent.metadata)
    return await end_after(pushing, hello, gateway_pb2.PushEventsRequest(batch=batch))


async def channel(agent: Client, agent_id: str) -> grpc.StatusCode:
    """A large message with a capacity that is none, in which the server stops reading."""
    message = agent_pb2.ConnectRequest(agent_id=agent_id, sequence=1)
    message.task_acks.add(message=TEXT)
    message.heartbeat.max_concurrent_step_runs = 99_999
    return await end_after(agent.agent.Connect(metadata=agent.metadata), message)


async def message_of_a_channel(agent: Client, agent_id: str) -> grpc.StatusCode:
    """A large report that is refused while the channel goes on, which the agent then leaves with an error."""
    update = stream_pb2.StepRunStatusUpdate(status=steprun_pb2.STEP_RUN_STATUS_PENDING, error_message=TEXT)
    call = agent.stream.AgentChannel(metadata=agent.metadata)
    await call.write(stream_pb2.AgentChannelRequest(agent_id=agent_id, request_id="1", step_run_status=update))
    while not (answer := await call.read()).HasField("step_run_status_ack"):
        pass
    assert not answer.step_run_status_ack.accepted
    return await end_after(call, stream_pb2.AgentChannelRequest(agent_id=agent_id))


@pytest.mark.parametrize(
    ("refused", "code"),
    [
        (unary, grpc.StatusCode.UNAUTHENTICATED),
        (malformed, grpc.StatusCode.INVALID_ARGUMENT),
        (reading, grpc.StatusCode.UNAUTHENTICATED),
        (logs, grpc.StatusCode.INVALID_ARGUMENT),
        (events, grpc.StatusCode.PERMISSION_DENIED),
        (channel, grpc.StatusCode.INVALID_ARGUMENT),
        (message_of_a_channel, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_is_refused_is_not_kept(
    server: Server, admin: Client, registration: str, refused: Refused, code: grpc.StatusCode
) -> None:
    agent_id, joined = await admin.join(registration, "refused")
    async with client_of(server, joined.token) as agent:
        for _ in range(WARM_UP):
            assert await refused(agent, agent_id) is code
        before = resident(server)
        for _ in range(CALLS):
            await refused(agent, agent_id)
        assert resident(server) - before < CALLS * MESSAGE / 4
