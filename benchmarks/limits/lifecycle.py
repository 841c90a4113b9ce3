"""The lifecycle limit: `python -m benchmarks.limits.lifecycle --data-dir DIR`.

One grpc.aio process over its own embedded PostgreSQL. It speaks the part of the contract that a load generator needs
(CreatePipeline, TriggerPipeline, Register, Connect), makes every claim, RUNNING and SUCCESS durable with its event
before it answers, and knows no rules: no authentication, selectors, lease times, rollup or counters.
"""

import argparse
import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import grpc
from grpc import aio

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_server.core_threads import yield_to_loop
from arcentra_server.db.embedded import EmbeddedPostgres
from benchmarks.limits import store
from benchmarks.limits.store import NewStep, Report, Status
from benchmarks.limits.writer import BatchWriter, Outbox

OPTIONS = [
    ("grpc.so_reuseport", 0),
    # With the defaults a burst of 5,000 streams loses some of them.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
]
STATUS_OF_WIRE = {
    steprun_pb2.STEP_RUN_STATUS_RUNNING: Status.RUNNING,
    steprun_pb2.STEP_RUN_STATUS_SUCCESS: Status.SUCCESS,
}


def reports_of(request: agent_pb2.ConnectRequest) -> list[Report]:
    """The reports of one message, oldest first."""
    return [Report(status.step_run_id, STATUS_OF_WIRE[status.status]) for status in request.task_statuses]


def steps_of(pipeline_id: str, run_id: str, job: pipeline_pb2.Job) -> list[NewStep]:
    """The step runs of one job, each with its dispatch serialised once and for all."""
    job_id = secrets.token_hex(16)
    steps = []
    for index, step in enumerate(job.steps):
        dispatch = agent_pb2.StepRun(
            step_run_id=secrets.token_hex(16),
            pipeline_id=pipeline_id,
            pipeline_run_id=run_id,
            job_id=job_id,
            job_name=job.name,
            step_name=step.name,
            step_index=index,
            uses=step.uses,
            action=step.action,
            args=step.args,
            env=step.env,
            attempt=1,
        )
        last = index == len(job.steps) - 1
        steps.append(NewStep(dispatch.step_run_id, job_id, index, last, dispatch.SerializeToString()))
    return steps


class Pipelines:
    """CreatePipeline and TriggerPipeline."""

    def __init__(self, writer: BatchWriter) -> None:
        self._writer = writer
        self._jobs: dict[str, list[pipeline_pb2.Job]] = {}

    async def create(
        self,
        request: pipeline_pb2.CreatePipelineRequest,
        _context: aio.ServicerContext[pipeline_pb2.CreatePipelineRequest, pipeline_pb2.CreatePipelineResponse],
    ) -> pipeline_pb2.CreatePipelineResponse:
        """Keep a pipeline; in memory, because creating one is not what is measured."""
        pipeline_id = secrets.token_hex(16)
        self._jobs[pipeline_id] = list(request.jobs)
        return pipeline_pb2.CreatePipelineResponse(success=True, pipeline_id=pipeline_id)

    async def trigger(
        self,
        request: pipeline_pb2.TriggerPipelineRequest,
        _context: aio.ServicerContext[pipeline_pb2.TriggerPipelineRequest, pipeline_pb2.TriggerPipelineResponse],
    ) -> pipeline_pb2.TriggerPipelineResponse:
        """Add the step runs of one run; answered once they are committed."""
        run_id = secrets.token_hex(16)
        steps = [step for job in self._jobs[request.pipeline_id] for step in steps_of(request.pipeline_id, run_id, job)]
        await self._writer.trigger(steps)
        return pipeline_pb2.TriggerPipelineResponse(success=True, run_id=run_id)

    def handler(self) -> grpc.GenericRpcHandler:
        """The two methods, as the contract names them."""
        return grpc.method_handlers_generic_handler(
            "pipeline.v1.PipelineService",
            {
                "CreatePipeline": grpc.unary_unary_rpc_method_handler(
                    self.create,
                    pipeline_pb2.CreatePipelineRequest.FromString,
                    pipeline_pb2.CreatePipelineResponse.SerializeToString,
                ),
                "TriggerPipeline": grpc.unary_unary_rpc_method_handler(
                    self.trigger,
                    pipeline_pb2.TriggerPipelineRequest.FromString,
                    pipeline_pb2.TriggerPipelineResponse.SerializeToString,
                ),
            },
        )


class Agents:
    """Register and Connect."""

    def __init__(self, writer: BatchWriter) -> None:
        self._writer = writer
        self._slots: dict[str, int] = {}

    async def register(
        self,
        request: agent_pb2.RegisterRequest,
        _context: aio.ServicerContext[agent_pb2.RegisterRequest, agent_pb2.RegisterResponse],
    ) -> agent_pb2.RegisterResponse:
        """Remember how many slots an agent has; its id is its credential."""
        agent_id = secrets.token_hex(16)
        self._slots[agent_id] = request.max_concurrent_step_runs
        return agent_pb2.RegisterResponse(success=True, agent_id=agent_id, auth_token=agent_id)

    async def connect(
        self,
        requests: AsyncIterator[agent_pb2.ConnectRequest],
        context: aio.ServicerContext[agent_pb2.ConnectRequest, agent_pb2.ConnectResponse],
    ) -> None:
        """Hold the stream of one agent; the first message says whose it is."""
        first = await anext(requests)
        outbox = Outbox(first.agent_id, acked_sequence=first.sequence)
        outbox.wake.set()  # an agent learns at once that it is heard
        self._writer.connect(outbox, self._slots[first.agent_id])
        try:
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(send(outbox, context))
                async for request in requests:
                    self._writer.report(outbox, request.sequence, reports_of(request))
                sending.cancel()
        finally:
            self._writer.disconnect(outbox)

    def handler(self) -> grpc.GenericRpcHandler:
        """The two methods, as the contract names them."""
        return grpc.method_handlers_generic_handler(
            "agent.v1.AgentService",
            {
                "Register": grpc.unary_unary_rpc_method_handler(
                    self.register, agent_pb2.RegisterRequest.FromString, agent_pb2.RegisterResponse.SerializeToString
                ),
                "Connect": grpc.stream_stream_rpc_method_handler(
                    self.connect, agent_pb2.ConnectRequest.FromString, agent_pb2.ConnectResponse.SerializeToString
                ),
            },
        )


async def send(
    outbox: Outbox, context: aio.ServicerContext[agent_pb2.ConnectRequest, agent_pb2.ConnectResponse]
) -> None:
    """Send everything that waits in one message, again and again."""
    while True:
        await outbox.wake.wait()
        outbox.wake.clear()
        response = agent_pb2.ConnectResponse(agent_id=outbox.agent_id, acked_sequence=outbox.acked_sequence)
        if outbox.dispatches:
            response.task_dispatch.step_runs.extend(outbox.dispatches)
            outbox.dispatches.clear()
        await context.write(response)


async def serve(data_dir: Path) -> None:
    """Serve until SIGTERM; prints one line `ready grpc=HOST:PORT` when it listens."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with EmbeddedPostgres(data_dir) as postgres:
        connection = await asyncpg.connect(postgres.dsn("arcentra"), server_settings=store.SESSION)
        await connection.execute(store.SCHEMA)
        writer = BatchWriter(connection)
        server = aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((Pipelines(writer).handler(), Agents(writer).handler()))
        port = server.add_insecure_port("127.0.0.1:0")
        async with asyncio.TaskGroup() as tasks:
            committing = tasks.create_task(writer.run())
            await server.start()
            yield_to_loop()
            print(f"ready grpc=127.0.0.1:{port}", flush=True)
            await stop.wait()
            await server.stop(grace=None)
            committing.cancel()
        await connection.close()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="directory of the embedded PostgreSQL")
    asyncio.run(serve(parser.parse_args().data_dir))


if __name__ == "__main__":
    main()
