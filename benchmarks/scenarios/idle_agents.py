"""What agents cost that have nothing to do: 5,000 streams, opened in one burst, that say every ten seconds that they live.

Before the idle time each does about one step run, which shows that what is open is also of use. A tenth of them come and
idle first, which shows how the cost grows.
"""

import asyncio
from dataclasses import dataclass, field

from benchmarks.harness import work
from benchmarks.harness.checks import check_database, check_load
from benchmarks.harness.commits import SETTLE_SECONDS, Commits
from benchmarks.harness.cpu import resident_bytes
from benchmarks.harness.load import Load, run_load
from benchmarks.harness.scenario import Sample, Scenario
from benchmarks.harness.subjects import Subject, limit_program
from benchmarks.harness.work import Shape


@dataclass(frozen=True, slots=True)
class Size:
    """`runs` runs of `pipeline` have one step run for each of the agents, which then idle for `hold_seconds`."""

    pipeline: Shape
    runs: int
    hold_seconds: float

    @property
    def agents(self) -> int:
        """How many agents."""
        return self.pipeline.jobs * self.pipeline.steps * self.runs


FULL = Size(Shape(jobs=50, steps=1), runs=100, hold_seconds=40.0)
SMOKE = Size(Shape(jobs=20, steps=1), runs=2, hold_seconds=11.0)


@dataclass(slots=True)
class Watch:
    """Reads what is to be known while the load goes on, and gives it its work when all streams are open."""

    subject: Subject
    pipeline_id: str
    runs: int
    resident: int = 0
    commits: dict[str, Commits] = field(default_factory=dict)

    async def at(self, event: str) -> None:
        """Take note of an event of the load."""
        self.commits[event] = await Commits.read(self.subject)
        self.resident = await asyncio.to_thread(resident_bytes, self.subject.pid)
        if event == "opened":
            await work.trigger(self.subject, self.pipeline_id, self.runs)


async def measure_once(subject: Subject, smoke: bool) -> Sample:
    """Seconds from the burst until every agent has heard the server."""
    size = SMOKE if smoke else FULL
    watch = Watch(subject, await work.create_pipeline(subject, size.pipeline), size.runs)
    resident = await asyncio.to_thread(resident_bytes, subject.pid)
    few = size.agents // 10
    tenth, _ = await _idle(subject, few, 0, size, Watch(subject, watch.pipeline_id, runs=0))
    quiet = (await _idle(subject, 1, 0, size, Watch(subject, watch.pipeline_id, runs=0)))[1]
    load, busy = await _idle(subject, size.agents, size.agents, size, watch)
    figures = {
        **load.figures,
        "rss_kb_each": (watch.resident - resident) / size.agents / 1000,
        "core_percent": core_percent(load),
        f"core_percent_of_{few}_agents": core_percent(tenth),
        f"open_seconds_of_{few}_agents": tenth.figures["open_seconds"],
        # A server with an agent looks for work once a second, however many there are.
        "renewal_commits_per_second": max(busy - quiet, 0.0),
    }
    faults = check_load(load.figures, size.agents) + await check_database(subject, size.agents)
    if lost := int(load.figures["lost"]):
        faults.append(f"{lost} of {size.agents} agents lost")
    return Sample(load.figures["open_seconds"], int(load.figures["done"]), load.cpu, figures, faults)


async def _idle(subject: Subject, agents: int, steps: int, size: Size, watch: Watch) -> tuple[Load, float]:
    """Let so many agents do so many step runs, then nothing; return the load, and the commits a second of that time."""
    arguments = ["--agents", str(agents), "--slots", "1", "--steps", str(steps)]
    times = ["--settle-seconds", str(SETTLE_SECONDS), "--hold-seconds", str(size.hold_seconds)]
    load = await run_load(subject, "idle_agents", [*arguments, *times], watch.at)
    return load, watch.commits["finished"].rate_since(watch.commits["started"])


def core_percent(load: Load) -> float:
    """CPU of server and PostgreSQL while nothing happened but heartbeats, in percent of one core."""
    microseconds = (load.cpu.server_us + load.cpu.postgres_us) * max(load.figures["done"], 1)
    return microseconds / 1e6 / load.figures["held_seconds"] * 100


SCENARIO = Scenario(
    name="idle-agents",
    measure=f"{FULL.agents:,} agents on Connect opened in one burst, then {FULL.hold_seconds:.0f} s of heartbeats",
    unit="s",
    operation="agent in that time",
    limit_is="bare streams: the batch writer with nothing to write",
    limit=limit_program("lifecycle"),
    measure_once=measure_once,
)
