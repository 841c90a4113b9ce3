"""Many small agents: every message carries one step run, and the price of a message decides."""

from benchmarks.harness.lifecycle import Drain
from benchmarks.harness.scenario import Scenario
from benchmarks.harness.subjects import limit_program
from benchmarks.harness.work import Shape

SCENARIO = Scenario(
    name="lifecycle-1slot",
    measure="step lifecycles, 200 agents x 1 slot, jobs of 3 steps",
    unit="/s",
    operation="lifecycle",
    limit_is="bare batch writer with coalesced streams",
    limit=limit_program("lifecycle"),
    measure_once=Drain(Shape(jobs=50, steps=3), runs=60, smoke_runs=8, agents=200, slots=1).measure_once,
)
