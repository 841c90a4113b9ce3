"""The lifecycle measurement: a full queue drained by fake agents, of any shape."""

from dataclasses import dataclass, replace

from benchmarks.harness import work
from benchmarks.harness.checks import check_database, check_load
from benchmarks.harness.load import run_load
from benchmarks.harness.scenario import Sample
from benchmarks.harness.subjects import Subject
from benchmarks.harness.work import Shape


@dataclass(frozen=True, slots=True)
class Drain:
    """`runs` runs of a pipeline wait in the queue when `agents` agents of `slots` slots (and a label) connect."""

    pipeline: Shape
    runs: int
    smoke_runs: int
    agents: int
    slots: int
    label: str = ""

    async def measure_once(self, subject: Subject, smoke: bool) -> Sample:
        """Step lifecycles a second, from the first dispatch to the last acknowledged SUCCESS."""
        return await self.drain(subject, await self.fill(subject, smoke))

    async def measure_cost(self, subject: Subject, smoke: bool) -> Sample:
        """CPU of servers and PostgreSQL a lifecycle, in microseconds."""
        sample = await self.measure_once(subject, smoke)
        return replace(sample, value=sample.cpu.server_us + sample.cpu.postgres_us)

    async def fill(self, subject: Subject, smoke: bool) -> int:
        """Trigger the runs; answers how many step runs they have."""
        runs = self.smoke_runs if smoke else self.runs
        pipeline_id = await work.create_pipeline(subject, self.pipeline)
        await work.trigger(subject, pipeline_id, runs)
        return runs * self.pipeline.jobs * self.pipeline.steps

    async def drain(self, subject: Subject, steps: int, *, before: int = 0) -> Sample:
        """Let the agents take `steps` step runs, and check that these, and `before` that succeeded before, are done."""
        fleet = ["--agents", str(self.agents), "--slots", str(self.slots)]
        if self.label:
            fleet += ["--label", self.label]
        load = await run_load(subject, "lifecycle", [*fleet, "--steps", str(steps), "--give-up-seconds", "180"])
        faults = check_load(load.figures, steps) + await check_database(subject, before + steps)
        done, seconds = load.figures["done"], load.figures["seconds"]
        return Sample(done / seconds if seconds > 0 else 0.0, int(done), load.cpu, load.figures, faults)
