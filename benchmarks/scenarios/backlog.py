"""What a long queue and a long history cost: 100,000 step runs wait in 1,000 selector classes, and 1,000,000 have ended.

Half of the classes no agent matches; the other half is what is measured. The limit has pipelines of the same shape, in an
empty database, for any agent.
"""

from dataclasses import dataclass, replace

from benchmarks.harness import work
from benchmarks.harness.copies import copy_run, tidy
from benchmarks.harness.lifecycle import Drain
from benchmarks.harness.scenario import Sample, Scenario
from benchmarks.harness.subjects import Subject, itself
from benchmarks.harness.work import FLEET_LABEL, Shape

FLEET = "ours"


@dataclass(frozen=True, slots=True)
class Size:
    """What there is: finished runs of `ended`, and as many queued runs of `queued` for these agents as for none.

    Each job of `queued` is of a class of its own.
    """

    ended: Shape
    finished_runs: int
    queued: Shape
    queued_runs: int
    runs_of_limit: int


FULL = Size(
    ended=Shape(jobs=50, steps=10),
    finished_runs=2_000,
    queued=Shape(jobs=500, steps=1),
    queued_runs=100,
    runs_of_limit=60,
)
SMOKE = Size(
    ended=Shape(jobs=5, steps=4), finished_runs=10, queued=Shape(jobs=20, steps=1), queued_runs=4, runs_of_limit=4
)


async def measure_once(subject: Subject, smoke: bool) -> Sample:
    """Step lifecycles a second, of the step runs that the agents match."""
    size = SMOKE if smoke else FULL
    drain = Drain(
        size.queued,
        runs=size.runs_of_limit,
        smoke_runs=size.runs_of_limit,
        agents=20,
        slots=20,
        label=f"{FLEET_LABEL}={FLEET}",
    )
    if subject.is_limit:
        return await drain.measure_once(subject, smoke)
    template = await started(subject, size.ended)
    a_run = size.ended.jobs * size.ended.steps
    ended = await drain.drain(subject, a_run)
    await copy_run(subject, template, 1, size.finished_runs - 1)
    first = size.finished_runs
    for fleets in ((), (FLEET,)):
        template = await started(subject, replace(size.queued, fleets=fleets))
        await copy_run(subject, template, first, size.queued_runs - 1)
        first += size.queued_runs - 1
    await tidy(subject)
    sample = await drain.drain(subject, size.queued.jobs * size.queued_runs, before=a_run * size.finished_runs)
    return replace(sample, faults=ended.faults + sample.faults)


async def started(subject: Subject, shape: Shape) -> str:
    """Create a pipeline and trigger its one run; answers the id of the pipeline."""
    pipeline_id = await work.create_pipeline(subject, shape)
    await work.trigger(subject, pipeline_id, 1)
    return pipeline_id


SCENARIO = Scenario(
    name="backlog",
    measure="step lifecycles, 20 agents x 20 slots, with 100,000 queued in 1,000 selector classes and 1,000,000 finished",
    unit="/s",
    operation="lifecycle",
    limit_is="ours on an empty queue",
    limit=itself,
    measure_once=measure_once,
)
