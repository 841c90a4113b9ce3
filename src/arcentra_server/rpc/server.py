"""The gRPC server: limits, guard, services, health and reflection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from arcentra_api.admin.v1 import admin_pb2, admin_pb2_grpc
from arcentra_api.agent.v1 import agent_pb2, agent_pb2_grpc
from arcentra_api.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from arcentra_api.pipeline.v1 import pipeline_pb2, pipeline_pb2_grpc
from arcentra_api.steprun.v1 import steprun_pb2, steprun_pb2_grpc
from arcentra_api.stream.v1 import stream_pb2, stream_pb2_grpc
from arcentra_server.rpc.interceptors.guard import Guard
from arcentra_server.rpc.policy import check_policy
from arcentra_server.rpc.servicers.admin import AdminServicer
from arcentra_server.rpc.servicers.agent import AgentServicer
from arcentra_server.rpc.servicers.gateway import GatewayServicer
from arcentra_server.rpc.servicers.pipeline import PipelineServicer
from arcentra_server.rpc.servicers.step_run import StepRunServicer
from arcentra_server.rpc.servicers.stream import StreamServicer
from arcentra_server.services.auth import AuthService

# security.md S13, S18-S21; performance.md: a burst of 5,000 streams loses 10 % with the defaults.
_OPTIONS: tuple[tuple[str, int], ...] = (
    # Two servers on one port would share its connections without a word.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_metadata_size", 8 * 1024),
    # A client does not queue above it but fails: a script that triggers 200 runs at once has one connection.
    ("grpc.max_concurrent_streams", 1_000),
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
_FILES = (
    admin_pb2.DESCRIPTOR,
    agent_pb2.DESCRIPTOR,
    gateway_pb2.DESCRIPTOR,
    pipeline_pb2.DESCRIPTOR,
    steprun_pb2.DESCRIPTOR,
    stream_pb2.DESCRIPTOR,
)


class RpcServer:
    """The server with all services.

    Args:
        auth: Checks credentials.
        observe: Told the method and the status of each call that ended.
        admin, agent, gateway, pipeline, step_run, stream: The services.
    """

    def __init__(
        self,
        auth: AuthService,
        observe: Callable[[str, str], None],
        *,
        admin: AdminServicer,
        agent: AgentServicer,
        gateway: GatewayServicer,
        pipeline: PipelineServicer,
        step_run: StepRunServicer,
        stream: StreamServicer,
    ) -> None:
        self._server = aio.server(interceptors=[Guard(auth, observe)], options=_OPTIONS)
        self._health = health.aio.HealthServicer()
        recorder = _Registry(self._server)
        # It has what registration uses of a server, and nothing else.
        registry = cast(aio.Server, recorder)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, registry)
        agent_pb2_grpc.add_AgentServiceServicer_to_server(agent, registry)
        gateway_pb2_grpc.add_GatewayServiceServicer_to_server(gateway, registry)
        pipeline_pb2_grpc.add_PipelineServiceServicer_to_server(pipeline, registry)
        steprun_pb2_grpc.add_StepRunServiceServicer_to_server(step_run, registry)
        stream_pb2_grpc.add_StreamServiceServicer_to_server(stream, registry)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, registry)
        names = [*service_names(), health.SERVICE_NAME, reflection.SERVICE_NAME]
        # Its own `enable_server_reflection` takes what is not an `aio.Server` for one with threads.
        serve_reflection: Callable[..., None] = add_ServerReflectionServicer_to_server
        serve_reflection(reflection.aio.ReflectionServicer(names), registry)
        check_policy(recorder.methods)

    async def start(self, address: str) -> int:
        """Listen on `HOST:PORT`, port 0 for a free one; return the port.

        Raises:
            RuntimeError: the address is taken, or not one of this machine.
        """
        port = self._server.add_insecure_port(address)
        await self._server.start()
        for name in ("", *service_names()):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Accept nothing new, and end what still runs after the grace."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)


def service_names() -> list[str]:
    """Return the full names of our services."""
    return [service.full_name for file in _FILES for service in file.services_by_name.values()]


class _Registry:
    """Passes registrations on to the server, and keeps the paths of what was registered."""

    def __init__(self, server: aio.Server) -> None:
        self._server = server
        self.methods: set[str] = set()

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.methods |= {f"/{service}/{method}" for method in handlers}
        self._server.add_registered_method_handlers(service, handlers)

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        self._server.add_generic_rpc_handlers(handlers)
