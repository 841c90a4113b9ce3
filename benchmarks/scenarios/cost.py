"""What a lifecycle costs: CPU of server and PostgreSQL, and how many commits, for each of which a disk is waited for."""

from dataclasses import replace

from benchmarks.harness.commits import Commits
from benchmarks.harness.lifecycle import Drain
from benchmarks.harness.scenario import Sample, Scenario
from benchmarks.harness.subjects import Subject, limit_program
from benchmarks.harness.work import Shape

DRAIN = Drain(Shape(jobs=50, steps=1), runs=400, smoke_runs=16, agents=20, slots=20)


async def measure_once(subject: Subject, smoke: bool) -> Sample:
    """CPU of server and PostgreSQL a lifecycle, in microseconds.

    The commits are those from the full queue until nothing happens any more: what is done each second by the clock, and
    the registration of the agents, count too.
    """
    steps = await DRAIN.fill(subject, smoke)
    begin = await Commits.settled(subject)
    sample = await DRAIN.drain(subject, steps)
    end = await Commits.settled(subject)
    figures = {**sample.figures, "commits_per_lifecycle": (end.count - begin.count) / max(sample.operations, 1)}
    return replace(sample, value=sample.cpu.server_us + sample.cpu.postgres_us, figures=figures)


SCENARIO = Scenario(
    name="cost",
    measure="CPU of server and PostgreSQL a lifecycle, 20 agents x 20 slots",
    unit="us",
    operation="lifecycle",
    limit_is="bare batch writer with coalesced streams",
    limit=limit_program("lifecycle"),
    measure_once=measure_once,
)
