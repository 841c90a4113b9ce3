"""The lifecycle measurement: a full queue drained by fake agents, of any shape."""

from dataclasses import dataclass

from benchmarks.harness import work
from benchmarks.harness.checks import check_database, check_load
from benchmarks.harness.load import run_load
from benchmarks.harness.scenario import Sample
from benchmarks.harness.subjects import Subject
from benchmarks.harness.work import Shape


@dataclass(frozen=True, slots=True)
class Drain:
    """`runs` runs of a pipeline wait in the queue when `agents` agents of `slots` slots connect."""

    pipeline: Shape
    runs: int
    smoke_runs: int
    agents: int
    slots: int

    async def measure_once(self, subject: Subject, smoke: bool) -> Sample:
        """Step lifecycles a second, from the first dispatch to the last acknowledged SUCCESS."""
        runs = self.smoke_runs if smoke else self.runs
        steps = runs * self.pipeline.jobs * self.pipeline.steps
        pipeline_id = await work.create_pipeline(subject, self.pipeline)
        await work.trigger(subject, pipeline_id, runs)
        fleet = ["--agents", str(self.agents), "--slots", str(self.slots)]
        load = await run_load(subject, "lifecycle", [*fleet, "--steps", str(steps)])
        faults = check_load(load.figures, steps) + await check_database(subject, steps)
        done, seconds = load.figures["done"], load.figures["seconds"]
        return Sample(done / seconds if seconds > 0 else 0.0, int(done), load.cpu, load.figures, faults)
