"""How long a user waits: from the call of TriggerPipeline until an idle agent has the first step."""

from benchmarks.harness import work
from benchmarks.harness.checks import check_database, check_load
from benchmarks.harness.load import run_load
from benchmarks.harness.scenario import Sample, Scenario
from benchmarks.harness.subjects import Subject, limit_program
from benchmarks.harness.work import Shape
from benchmarks.load.latency import WARM_UP_CALLS

CALLS = 200
SMOKE_CALLS = 20
FLEET = ("--agents", "20", "--slots", "20")


async def measure_once(subject: Subject, smoke: bool) -> Sample:
    """The middle of the waits for a dispatch, in milliseconds, at 20 calls a second."""
    calls = SMOKE_CALLS if smoke else CALLS
    pipeline_id = await work.create_pipeline(subject, Shape(jobs=1, steps=1))
    arguments = [*FLEET, "--pipeline", pipeline_id, "--calls", str(calls), "--rate", "20"]
    load = await run_load(subject, "latency", arguments)
    steps = calls + WARM_UP_CALLS
    faults = check_load(load.figures, steps) + await check_database(subject, steps)
    return Sample(load.figures.get("dispatch_p50_ms", 0.0), int(load.figures["done"]), load.cpu, load.figures, faults)


SCENARIO = Scenario(
    name="latency",
    measure="TriggerPipeline call to dispatch received at 20/s, p50",
    unit="ms",
    operation="run",
    limit_is="bare batch writer: insert and claim in one commit",
    limit=limit_program("lifecycle"),
    measure_once=measure_once,
)
