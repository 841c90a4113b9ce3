"""Runs a scenario: limit and server in turn, each from an empty directory, round after round."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.machine import postgres_version
from benchmarks.harness.scenario import Sample, Scenario
from benchmarks.harness.subjects import Side


@dataclass(frozen=True, slots=True)
class Round:
    """One run of the limit and, right after it, one of the server."""

    limit: Sample
    server: Sample

    @property
    def ratio(self) -> float:
        """The server's value over the limit's; 0 when the limit has none (its faults say why)."""
        return self.server.value / self.limit.value if self.limit.value else 0.0


@dataclass(frozen=True, slots=True)
class Runner:
    """How to run scenarios: where the databases live, tiny or full sizes, and whom to tell."""

    work_dir: Path
    smoke: bool
    tell: Callable[[str], None]

    async def run(self, scenario: Scenario, rounds: int) -> tuple[list[Round], str]:
        """Measure both sides `rounds` times, interleaved; answers the rounds and the version of PostgreSQL.

        Raises:
            ProcessFailedError: a program did not start, or ended early.
        """
        measured, postgres = [], ""
        for number in range(1, rounds + 1):
            limit, postgres = await self.run_side(scenario, scenario.limit, f"round {number} limit ")
            server, postgres = await self.run_side(scenario, scenario.server, f"round {number} server")
            measured.append(Round(limit, server))
        return measured, postgres

    async def run_side(self, scenario: Scenario, side: Side, title: str) -> tuple[Sample, str]:
        """Measure one side once; answers the sample and the version of its PostgreSQL."""
        with tempfile.TemporaryDirectory(prefix="bench-", dir=self.work_dir) as directory:
            async with side(Path(directory)) as subject:
                postgres = await postgres_version(subject.dsn)
                sample = await scenario.measure_once(subject, self.smoke)
        self.tell(f"  {title}  {describe(scenario, sample)}")
        return sample, postgres


def describe(scenario: Scenario, sample: Sample) -> str:
    """A sample as one line."""
    cpu = sample.cpu
    line = (
        f"{sample.value:,.1f} {scenario.unit}  CPU us a {scenario.operation}: server {cpu.server_us:.0f}, "
        f"PostgreSQL {cpu.postgres_us:.0f}, load {cpu.load_us:.0f}  "
        f"foreign {cpu.foreign_percent:.0f} %, steal {cpu.steal_percent:.0f} %"
    )
    return "\n    FAULT: ".join([line, *sample.faults])
