"""A small control plane in memory behind real gRPC, for tests of its clients: runs are played by the test."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc
from google.protobuf import any_pb2, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode, aio
from grpc_status import rpc_status

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from tests.support.fake_agents import FakeAgents
from tests.support.fake_documents import FakeDocuments
from tests.support.fake_hooks import FakeHooks
from tests.support.fake_order import FakeOrder
from tests.support.fake_secrets import FakeSecrets

Ctx = aio.ServicerContext[Any, Any]
Kind = Literal["run", "job", "step"]
TOKEN = "tok-of-the-fake"

_PIPELINE_END = {
    pipeline_pb2.PIPELINE_STATUS_SUCCESS,
    pipeline_pb2.PIPELINE_STATUS_FAILED,
    pipeline_pb2.PIPELINE_STATUS_CANCELLED,
    pipeline_pb2.PIPELINE_STATUS_PARTIAL,
    pipeline_pb2.PIPELINE_STATUS_TIMEOUT,
}


@dataclass
class Log:
    """The log of one step: pieces of bytes, or numbers of lost ones."""

    pieces: list[bytes | int] = field(default_factory=list)
    complete: bool = False


class PlayedRun:
    """One run; the test plays what happens to it."""

    def __init__(self, run_id: str, pipeline: pipeline_pb2.PipelineDetail) -> None:
        self.run_id = run_id
        self.detail = pipeline_pb2.PipelineRunDetail(
            run_id=run_id,
            pipeline_id=pipeline.pipeline_id,
            pipeline_name=pipeline.name,
            namespace=pipeline.namespace,
            status=pipeline_pb2.PIPELINE_STATUS_PENDING,
            start_time=1_800_000_000,
        )
        self.events: list[tuple[Kind, Any]] = []
        self.logs: dict[str, Log] = {}
        self.changed = asyncio.Condition()

    @property
    def ended(self) -> bool:
        return self.detail.status in _PIPELINE_END

    async def run(
        self, status: pipeline_pb2.PipelineStatus.ValueType, *, total: int = 0, completed: int = 0, failed: int = 0
    ) -> None:
        previous, self.detail.status = self.detail.status, status
        counts = {"total_jobs": total, "completed_jobs": completed, "failed_jobs": failed}
        message = stream_pb2.StreamPipelineStatusResponse(run_id=self.run_id, status=status, previous_status=previous)
        for name, count in counts.items():
            setattr(self.detail, name, count)
            setattr(message, name, count)
        await self._publish("run", message)

    async def job(
        self,
        name: str,
        status: pipeline_pb2.PipelineStatus.ValueType,
        duration: int = 0,
        *,
        waiting: str = "",
        detail: str = "",
    ) -> None:
        job = self.job_run(name)
        previous, job.status = job.status or pipeline_pb2.PIPELINE_STATUS_PENDING, status
        job.duration, job.waiting_reason, job.waiting_detail = duration, waiting, detail
        await self._publish(
            "job",
            stream_pb2.StreamJobStatusResponse(
                job_id=job.job_run_id,
                job_name=name,
                status=status,
                previous_status=previous,
                duration=duration,
                total_steps=len({step.step_name for step in job.step_runs}),
                waiting_reason=waiting,
            ),
        )

    async def step(
        self,
        path: str,
        status: steprun_pb2.StepRunStatus.ValueType,
        *,
        exit_code: int = 0,
        duration: int = 0,
        attempt: int = 1,
        waiting: str = "",
    ) -> str:
        """Change an attempt of the step `job/step`; answers its id."""
        job_name, _, step_name = path.partition("/")
        job = self.job_run(job_name)
        step_id = f"{self.run_id}-{job_name}-{step_name}" + (f"-{attempt}" if attempt > 1 else "")
        step = next((step for step in job.step_runs if step.step_run_id == step_id), None)
        if step is None:
            step = job.step_runs.add(step_run_id=step_id, step_name=step_name, attempt=attempt)
        word = steprun_pb2.StepRunStatus.Name(status).removeprefix("STEP_RUN_STATUS_")
        previous = self._last_status("step", step.step_run_id) or steprun_pb2.STEP_RUN_STATUS_PENDING
        step.status = pipeline_pb2.PipelineStatus.Value(f"PIPELINE_STATUS_{'PENDING' if word == 'QUEUED' else word}")
        step.exit_code, step.duration, step.waiting_reason = exit_code, duration, waiting
        if word not in {"PENDING", "QUEUED"}:
            step.agent_id, step.start_time = "agent-1-id", 1_800_000_000
        await self._publish(
            "step",
            stream_pb2.StreamStepRunStatusResponse(
                step_run_id=step.step_run_id,
                job_id=job.job_run_id,
                job_name=job_name,
                step_name=step_name,
                status=status,
                previous_status=previous,
                exit_code=exit_code,
                duration=duration,
                agent_id=step.agent_id,
                waiting_reason=waiting,
            ),
        )
        return step.step_run_id

    async def log(self, step_run_id: str, *pieces: bytes | int, complete: bool = False) -> None:
        """Append to the log of a step: bytes, or a number of lost ones."""
        async with self.changed:
            log = self.logs.setdefault(step_run_id, Log())
            log.pieces.extend(pieces)
            log.complete = log.complete or complete
            self.changed.notify_all()

    def state(self, kind: Kind) -> list[Any]:
        """The last message of each thing, as the current state."""
        last: dict[str, Any] = {}
        for event_kind, message in self.events:
            if event_kind == kind:
                last[_key(message)] = message
        state = []
        for message in last.values():
            current = type(message)()
            current.CopyFrom(message)
            current.ClearField("previous_status")
            current.event_id = str(len(self.events))
            state.append(current)
        return state

    def job_run(self, name: str) -> pipeline_pb2.JobRunDetail:
        """The job of this name; it is made where there is none."""
        job = next((job for job in self.detail.job_runs if job.job_name == name), None)
        return job or self.detail.job_runs.add(job_run_id=f"{self.run_id}-{name}", job_name=name)

    def _last_status(self, kind: Kind, key: str) -> Any:
        return next((m.status for k, m in reversed(self.events) if k == kind and _key(m) == key), 0)

    async def _publish(self, kind: Kind, message: Any) -> None:
        async with self.changed:
            message.event_id = str(len(self.events) + 1)
            self.events.append((kind, message))
            self.changed.notify_all()


def _key(message: Any) -> str:
    """Id of the thing a status message is about."""
    for name in ("step_run_id", "job_id", "run_id"):
        if name in message.DESCRIPTOR.fields_by_name:
            return str(getattr(message, name))
    raise AssertionError(message)


class FakePipelineServer:
    """The server: `await start()`, then play runs. `restart` ends every call and listens on the same port again."""

    def __init__(self) -> None:
        self.port = 0
        self.pipelines: dict[tuple[str, str], pipeline_pb2.PipelineDetail] = {}
        self.runs: dict[str, PlayedRun] = {}
        self.triggers: dict[str, str] = {}
        self.agents = FakeAgents()
        self.secrets = FakeSecrets()
        self.hooks = FakeHooks()
        self.order = FakeOrder()
        # What every trigger is answered with.
        self.warnings: list[str] = []
        self.calls: Counter[str] = Counter()
        self.requests: list[Any] = []
        # Method name -> after how many messages its next call is cut with UNAVAILABLE, once.
        self.cut_after: dict[str, int] = {}
        # Method name -> how many calls are refused with UNAVAILABLE before one is served.
        self.away_for: Counter[str] = Counter()
        self.triggered = asyncio.Event()
        self._server: aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        server = aio.server(options=[("grpc.so_reuseport", 0)])
        for module in (admin_pb2, agent_pb2, pipeline_pb2, steprun_pb2, stream_pb2):
            for service in module.DESCRIPTOR.services_by_name.values():
                handlers = {method.name: self._handler(method) for method in service.methods}
                server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
        self.port = server.add_insecure_port(self.address)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server:
            await self._server.stop(None)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def add_pipeline(self, name: str, namespace: str = "default") -> pipeline_pb2.PipelineDetail:
        detail = pipeline_pb2.PipelineDetail(
            pipeline_id=f"{len(self.pipelines):08x}-0000-7000-8000-000000000000",
            namespace=namespace,
            name=name,
            enabled=True,
            spec_version=1,
        )
        self.pipelines[namespace, name] = detail
        return detail

    def add_run(self, pipeline: str = "demo") -> PlayedRun:
        detail = self.pipelines.get(("default", pipeline)) or self.add_pipeline(pipeline)
        run = PlayedRun(f"run-{len(self.runs) + 1}", detail)
        self.runs[run.run_id] = run
        return run

    def _handler(self, method: MethodDescriptor) -> Any:
        """The served method behind the gate; UNIMPLEMENTED where there is none."""
        serve: Any = _Calls(self).served.get(method.name)

        async def unary(request: Any, context: Any) -> Any:
            await self._gate(method.name, request, context)
            return await serve(request, context) if serve else await context.abort(StatusCode.UNIMPLEMENTED, "no")

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._gate(method.name, request, context)
            cut = self.cut_after.pop(method.name, None)
            if serve is None:
                await context.abort(StatusCode.UNIMPLEMENTED, "no")
            sent = 0
            async for message in serve(request, context):
                if sent == cut:
                    await context.abort(StatusCode.UNAVAILABLE, "cut")
                yield message
                sent += 1

        codecs: Any = {
            "request_deserializer": message_factory.GetMessageClass(method.input_type).FromString,
            "response_serializer": lambda message: message.SerializeToString(),
        }
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, **codecs)
        return grpc.unary_unary_rpc_method_handler(unary, **codecs)

    async def _gate(self, method: str, request: Any, context: Any) -> None:
        self.calls[method] += 1
        self.requests.append(request)
        if self.away_for[method] > 0:
            self.away_for[method] -= 1
            await context.abort(StatusCode.UNAVAILABLE, "away")
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
            await context.abort(StatusCode.UNAUTHENTICATED, "unknown token")


class _Calls:
    """The served methods."""

    def __init__(self, fake: FakePipelineServer) -> None:
        self._fake = fake
        self.served: dict[str, Any] = {
            **fake.agents.served,
            **fake.secrets.served,
            **fake.hooks.served,
            **fake.order.served,
            **FakeDocuments().served,
            "WhoAmI": self.who_am_i,
            "ApplyPipeline": self.apply_pipeline,
            "GetPipeline": self.get_pipeline,
            "ListPipelines": self.list_pipelines,
            "DeletePipeline": self.delete_pipeline,
            "TriggerPipeline": self.trigger_pipeline,
            "GetPipelineRun": self.get_pipeline_run,
            "ListPipelineRuns": self.list_pipeline_runs,
            "StopPipeline": self.stop_pipeline,
            "GetStepRun": self.get_step_run,
            "StreamPipelineStatus": self.stream_pipeline_status,
            "StreamJobStatus": self.stream_job_status,
            "StreamStepRunStatus": self.stream_step_run_status,
            "StreamStepRunLogs": self.stream_step_run_logs,
        }

    async def who_am_i(self, _request: Any, _context: Any) -> admin_pb2.WhoAmIResponse:
        return admin_pb2.WhoAmIResponse(name="ada", role="admin", server_version="9.9.9")

    async def apply_pipeline(
        self, request: pipeline_pb2.ApplyPipelineRequest, context: Any
    ) -> pipeline_pb2.ApplyPipelineResponse:
        """The document is the pipeline's name; one that starts with `faulty` is refused."""
        name = request.document.strip()
        if name.startswith("faulty"):
            await _refuse(context, {"stages[0].jobs[1].name": "bad name (line 7, column 9)", "triggers": "no cron"})
        namespace = request.namespace or "default"
        created = (namespace, name) not in self._fake.pipelines
        detail = self._fake.pipelines.get((namespace, name)) or self._fake.add_pipeline(name, namespace)
        return pipeline_pb2.ApplyPipelineResponse(
            pipeline_id=detail.pipeline_id,
            created=created,
            changed=created,
            spec_version=1,
            namespace=namespace,
            name=name,
        )

    async def get_pipeline(self, request: pipeline_pb2.GetPipelineRequest, context: Any) -> Any:
        for detail in self._fake.pipelines.values():
            if request.pipeline_id == detail.pipeline_id or (
                (request.namespace, request.name) == (detail.namespace, detail.name)
            ):
                return pipeline_pb2.GetPipelineResponse(success=True, pipeline=detail)
        return await _not_found(context, f"pipeline {request.namespace}/{request.name}")

    async def list_pipelines(
        self, request: pipeline_pb2.ListPipelinesRequest, _context: Any
    ) -> pipeline_pb2.ListPipelinesResponse:
        wanted = [p for p in self._fake.pipelines.values() if request.namespace in {"", p.namespace}]
        return pipeline_pb2.ListPipelinesResponse(success=True, pipelines=wanted, total=len(wanted))

    async def delete_pipeline(
        self, request: pipeline_pb2.DeletePipelineRequest, _context: Any
    ) -> pipeline_pb2.DeletePipelineResponse:
        kept = {key: p for key, p in self._fake.pipelines.items() if p.pipeline_id != request.pipeline_id}
        self._fake.pipelines = kept
        return pipeline_pb2.DeletePipelineResponse(success=True)

    async def trigger_pipeline(
        self, request: pipeline_pb2.TriggerPipelineRequest, _context: Any
    ) -> pipeline_pb2.TriggerPipelineResponse:
        known = self._fake.triggers.get(request.request_id)
        name = next(p.name for p in self._fake.pipelines.values() if p.pipeline_id == request.pipeline_id)
        run_id = known or self._fake.add_run(name).run_id
        self._fake.triggers[request.request_id] = run_id
        self._fake.triggered.set()
        return pipeline_pb2.TriggerPipelineResponse(success=True, run_id=run_id, warnings=self._fake.warnings)

    async def get_pipeline_run(self, request: pipeline_pb2.GetPipelineRunRequest, context: Any) -> Any:
        if request.run_id not in self._fake.runs:
            return await _not_found(context, f"run {request.run_id}")
        return pipeline_pb2.GetPipelineRunResponse(success=True, run=self._fake.runs[request.run_id].detail)

    async def list_pipeline_runs(
        self, request: pipeline_pb2.ListPipelineRunsRequest, _context: Any
    ) -> pipeline_pb2.ListPipelineRunsResponse:
        wanted = [run.detail for run in self._fake.runs.values() if request.status in {0, run.detail.status}]
        return pipeline_pb2.ListPipelineRunsResponse(success=True, runs=wanted, total=len(wanted))

    async def stop_pipeline(
        self, request: pipeline_pb2.StopPipelineRequest, _context: Any
    ) -> pipeline_pb2.StopPipelineResponse:
        self._fake.runs[request.run_id].detail.status_reason = request.reason
        await self._fake.runs[request.run_id].run(pipeline_pb2.PIPELINE_STATUS_CANCELLED)
        return pipeline_pb2.StopPipelineResponse(success=True)

    async def get_step_run(self, request: steprun_pb2.GetStepRunRequest, context: Any) -> Any:
        for run in self._fake.runs.values():
            for message in run.state("step"):
                if message.step_run_id == request.step_run_id:
                    detail = steprun_pb2.StepRunDetail(
                        step_run_id=message.step_run_id,
                        job_name=message.job_name,
                        step_name=message.step_name,
                        status=message.status,
                    )
                    return steprun_pb2.GetStepRunResponse(success=True, step_run=detail)
        return await _not_found(context, f"step run {request.step_run_id}")

    async def stream_pipeline_status(
        self, request: stream_pb2.StreamPipelineStatusRequest, _context: Any
    ) -> AsyncIterator[Any]:
        async for message in self._statuses("run", request.pipeline_run_ids[0], request.after_event_id):
            yield message

    async def stream_job_status(self, request: stream_pb2.StreamJobStatusRequest, _context: Any) -> AsyncIterator[Any]:
        async for message in self._statuses("job", request.pipeline_run_id, request.after_event_id):
            yield message

    async def stream_step_run_status(
        self, request: stream_pb2.StreamStepRunStatusRequest, _context: Any
    ) -> AsyncIterator[Any]:
        async for message in self._statuses("step", request.pipeline_run_id, request.after_event_id):
            yield message

    async def _statuses(self, kind: Kind, run_id: str, after: str) -> AsyncIterator[Any]:
        run = self._fake.runs[run_id]
        sent = int(after) if after else len(run.events)
        for message in [] if after else run.state(kind):
            yield message
        while True:
            for event_kind, message in run.events[sent:]:
                if event_kind == kind:
                    yield message
                sent = int(message.event_id)
            async with run.changed:
                if len(run.events) == sent and run.ended:
                    return
                await run.changed.wait_for(lambda: len(run.events) > sent or run.ended)  # noqa: B023 - awaited at once

    async def stream_step_run_logs(
        self, request: stream_pb2.StreamStepRunLogsRequest, _context: Any
    ) -> AsyncIterator[Any]:
        run = next(run for run in self._fake.runs.values() if request.step_run_id.startswith(f"{run.run_id}-"))
        log = run.logs.setdefault(request.step_run_id, Log())
        index, offset = 0, 0
        while True:
            for piece in log.pieces[index:]:
                index += 1
                size = piece if isinstance(piece, int) else len(piece)
                start, offset = offset, offset + size
                skipped = max(0, request.offset - start)
                if skipped >= size:
                    continue
                yield stream_pb2.StreamStepRunLogsResponse(
                    offset=start + skipped,
                    data=b"" if isinstance(piece, int) else piece[skipped:],
                    lost_bytes=piece - skipped if isinstance(piece, int) else 0,
                )
            async with run.changed:
                if len(log.pieces) == index:
                    if log.complete or not request.follow:
                        return
                    await run.changed.wait()


async def _not_found(context: Any, what: str) -> Any:
    await context.abort(StatusCode.NOT_FOUND, f"{what} not found")


async def _refuse(context: Any, violations: dict[str, str]) -> None:
    detail = any_pb2.Any()
    detail.Pack(
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=path, description=text)
                for path, text in violations.items()
            ]
        )
    )
    status = status_pb2.Status(
        code=StatusCode.INVALID_ARGUMENT.value[0], message="the document has faults", details=[detail]
    )
    await context.abort_with_status(rpc_status.to_status(status))
