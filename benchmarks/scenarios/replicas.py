"""What a second server on the same database costs: both are given half of the agents and rival for the same queue."""

from benchmarks.harness.lifecycle import Drain
from benchmarks.harness.scenario import Scenario
from benchmarks.harness.subjects import itself, two_servers
from benchmarks.harness.work import Shape

SCENARIO = Scenario(
    name="replicas",
    measure="CPU of two servers and PostgreSQL a lifecycle, 20 agents x 20 slots",
    unit="us",
    operation="lifecycle",
    limit_is="ours, one server",
    limit=itself,
    server=two_servers,
    measure_once=Drain(Shape(jobs=50, steps=1), runs=400, smoke_runs=16, agents=20, slots=20).measure_cost,
)
