"""Few large agents: messages carry many step runs, and what is left is the cost of a step run itself."""

from benchmarks.harness.lifecycle import Drain
from benchmarks.harness.scenario import Scenario
from benchmarks.harness.subjects import limit_program
from benchmarks.harness.work import Shape

SCENARIO = Scenario(
    name="lifecycle-20x20",
    measure="step lifecycles, 20 agents x 20 slots",
    unit="/s",
    operation="lifecycle",
    limit_is="bare batch writer with coalesced streams",
    limit=limit_program("lifecycle"),
    measure_once=Drain(Shape(jobs=50, steps=1), runs=400, smoke_runs=16, agents=20, slots=20).measure_once,
)
