"""Work for the fake agents, made through the API as a user makes it."""

import asyncio
from dataclasses import dataclass

from grpc import aio

from arcentra_api.pipeline.v1 import pipeline_pb2, pipeline_pb2_grpc
from benchmarks.harness.subjects import Subject

TRIGGERS_AT_ONCE = 4
FLEET_LABEL = "fleet"


@dataclass(frozen=True, slots=True)
class Shape:
    """A pipeline of jobs, each of `steps` shell steps.

    In `layers` of one size, each job depending on `edges` jobs in all of the layer before, spread evenly. With `fleets`
    each job has a selector of its own: it asks for agents whose label `fleet` is its own name or one of these.
    """

    jobs: int
    steps: int
    layers: int = 1
    edges: int = 0
    fleets: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """What the pipeline is called."""
        return "-".join(
            ["bench", f"{self.jobs}x{self.steps}", *(("for", *self.fleets) if self.fleets is not None else ())]
        )

    def needs(self, job_number: int) -> list[str]:
        """The jobs that a job depends on."""
        width = self.jobs // self.layers
        layer, place = divmod(job_number, width)
        if layer == 0 or not self.edges:
            return []
        dependants = self.jobs - width
        number = job_number - width
        count = self.edges * (number + 1) // dependants - self.edges * number // dependants
        return [f"job-{(layer - 1) * width + (place + step) % width}" for step in range(count)]

    def document(self) -> str:
        """The pipeline as people write it."""
        lines = [f"name: {self.name}", "namespace: benchmark", "jobs:"]
        for number in range(self.jobs):
            lines += [f"  - name: job-{number}", f"    depends_on: [{', '.join(self.needs(number))}]"]
            if self.fleets is not None:
                values = ", ".join([f"job-{number}", *self.fleets])
                expression = f"{{key: {FLEET_LABEL}, operator: In, values: [{values}]}}"
                lines += [f"    agent_selector: {{match_expressions: [{expression}]}}"]
            lines += ["    steps:"]
            for step in range(self.steps):
                lines += [f"      - name: step-{step}", "        uses: shell", '        args: {script: "exit 0"}']
        return "\n".join(lines) + "\n"

    def request(self) -> pipeline_pb2.CreatePipelineRequest:
        """The call that creates it."""
        request = pipeline_pb2.CreatePipelineRequest(namespace="benchmark", name=self.name)
        for job_number in range(self.jobs):
            job = request.jobs.add(name=f"job-{job_number}", depends_on=self.needs(job_number))
            if self.fleets is not None:
                values = [job.name, *self.fleets]
                job.agent_selector.match_expressions.add(key=FLEET_LABEL, operator="In", values=values)
            for step_number in range(self.steps):
                step = job.steps.add(name=f"step-{step_number}", uses="shell", run_on_agent=True)
                step.args.update({"script": "exit 0"})
        return request


async def create_pipeline(subject: Subject, shape: Shape) -> str:
    """Create the pipeline; answers its id."""
    async with aio.insecure_channel(subject.target) as channel:
        stub = pipeline_pb2_grpc.PipelineServiceStub(channel)
        response = await stub.CreatePipeline(shape.request(), metadata=user(subject))
        return response.pipeline_id


async def trigger(subject: Subject, pipeline_id: str, runs: int) -> None:
    """Trigger a pipeline `runs` times, a few calls at once."""
    async with aio.insecure_channel(subject.target) as channel:
        stub = pipeline_pb2_grpc.PipelineServiceStub(channel)
        gate = asyncio.Semaphore(TRIGGERS_AT_ONCE)

        async def once() -> None:
            async with gate:
                await stub.TriggerPipeline(
                    pipeline_pb2.TriggerPipelineRequest(pipeline_id=pipeline_id), metadata=user(subject)
                )

        async with asyncio.TaskGroup() as calls:
            for _ in range(runs):
                calls.create_task(once())


def user(subject: Subject) -> tuple[tuple[str, str], ...]:
    """Metadata of a call by the administrator."""
    return (("authorization", f"Bearer {subject.admin_token}"),)
