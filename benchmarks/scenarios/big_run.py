"""What a step costs in a large pipeline: 1,000 jobs of 3 steps with 5,000 edges, beside pipelines of 10 jobs."""

import time

from grpc import aio

from arcentra_api.pipeline.v1 import pipeline_pb2, pipeline_pb2_grpc
from benchmarks.harness import work
from benchmarks.harness.checks import check_database, check_load
from benchmarks.harness.load import run_load
from benchmarks.harness.scenario import Sample, Scenario
from benchmarks.harness.subjects import Subject, itself
from benchmarks.harness.work import Shape

LARGE = Shape(jobs=1_000, steps=3, layers=20, edges=5_000)
SMALL = Shape(jobs=10, steps=3, layers=2, edges=25)
SMOKE_LARGE = Shape(jobs=40, steps=3, layers=4, edges=100)
RUNS_OF_LARGE = 2
FLEET = ("--agents", "20", "--slots", "5")


async def measure_once(subject: Subject, smoke: bool) -> Sample:
    """CPU of server and PostgreSQL a step, in microseconds, from the first dispatch to the last SUCCESS."""
    large = SMOKE_LARGE if smoke else LARGE
    shape = SMALL if subject.is_limit else large
    runs = RUNS_OF_LARGE * large.jobs // shape.jobs
    figures, pipeline_id = await _prepare(subject, shape)
    begin = time.monotonic()
    await work.trigger(subject, pipeline_id, 1)
    figures["trigger_seconds"] = time.monotonic() - begin
    await work.trigger(subject, pipeline_id, runs - 1)
    steps = runs * shape.jobs * shape.steps
    load = await run_load(subject, "lifecycle", [*FLEET, "--steps", str(steps)])
    faults = check_load(load.figures, steps) + await check_database(subject, steps)
    cost = load.cpu.server_us + load.cpu.postgres_us
    return Sample(cost, int(load.figures["done"]), load.cpu, {**load.figures, **figures}, faults)


async def _prepare(subject: Subject, shape: Shape) -> tuple[dict[str, float], str]:
    """Validate and apply the pipeline as a document; answers how long each took, and its id."""
    async with aio.insecure_channel(subject.target) as channel:
        stub = pipeline_pb2_grpc.PipelineServiceStub(channel)
        document = shape.document()
        begin = time.monotonic()
        answer = await stub.ValidatePipeline(
            pipeline_pb2.ValidatePipelineRequest(document=document), metadata=work.user(subject)
        )
        validated = time.monotonic()
        if not answer.valid:
            raise ValueError(f"the pipeline of the scenario has faults: {list(answer.faults)[:3]}")
        applied = await stub.ApplyPipeline(
            pipeline_pb2.ApplyPipelineRequest(document=document), metadata=work.user(subject)
        )
        done = time.monotonic()
    return {"validate_seconds": validated - begin, "apply_seconds": done - validated}, applied.pipeline_id


SCENARIO = Scenario(
    name="big-run",
    measure="CPU a step in runs of 1,000 jobs, 3,000 steps, 5,000 edges",
    unit="us",
    operation="step",
    limit_is="ours with pipelines of 10 jobs",
    limit=itself,
    measure_once=measure_once,
)
