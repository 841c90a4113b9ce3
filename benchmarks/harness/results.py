"""What came of a scenario: medians, ratios, bars; as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bars import Bar
from benchmarks.harness.rounds import Round
from benchmarks.harness.scenario import Sample, Scenario


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of some values."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """The spread of at least one value."""
        ordered = sorted(values)
        return cls(median(ordered), ordered[0], ordered[-1])

    def members(self) -> dict[str, float]:
        """The spread as a JSON object's members."""
        return {"median": round(self.median, 3), "min": round(self.least, 3), "max": round(self.greatest, 3)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar and the value it was held against."""

    bar: Bar
    value: float

    @property
    def passed(self) -> bool:
        """Whether the value is within the bar."""
        return self.bar.passed_by(self.value)

    def members(self) -> dict[str, Any]:
        """The verdict as a JSON object's members."""
        return {
            "figure": self.bar.name,
            "value": round(self.value, 3),
            "bound": "at most" if self.bar.at_most else "at least",
            "bar": self.bar.bar,
            "aim": self.bar.aim,
            "passed": self.passed,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """The rounds of one scenario and what they come to."""

    scenario: Scenario
    rounds: Sequence[Round]
    bars: Sequence[Bar]

    @property
    def ratio(self) -> Spread:
        """The ratios of the rounds: each compares two runs that stood beside each other."""
        return Spread.of(each.ratio for each in self.rounds)

    @property
    def faults(self) -> list[str]:
        """Everything that was wrong in any run."""
        return [fault for each in self.rounds for sample in (each.limit, each.server) for fault in sample.faults]

    def verdicts(self) -> list[Verdict]:
        """Every bar of the scenario, held against the median of its figure."""
        return [Verdict(bar, median(value_of(bar, each) for each in self.rounds)) for bar in self.bars]

    @property
    def passed(self) -> bool:
        """Whether no run had a fault and every bar was met."""
        return not self.faults and all(verdict.passed for verdict in self.verdicts())

    def document(self, machine: Mapping[str, Any], versions: Mapping[str, str], date: str) -> dict[str, Any]:
        """The result as it is stored."""
        return {
            "scenario": self.scenario.name,
            "measure": self.scenario.measure,
            "unit": self.scenario.unit,
            "operation": self.scenario.operation,
            "limit_is": self.scenario.limit_is,
            "date": date,
            "machine": dict(machine),
            "versions": dict(versions),
            "limit": side_members([each.limit for each in self.rounds]),
            "server": side_members([each.server for each in self.rounds]),
            "ratio": self.ratio.members(),
            "bars": [verdict.members() for verdict in self.verdicts()],
            "passed": self.passed,
            "rounds": [
                {
                    "limit": sample_members(each.limit),
                    "server": sample_members(each.server),
                    "ratio": round(each.ratio, 3),
                }
                for each in self.rounds
            ],
        }


def value_of(bar: Bar, measured: Round) -> float:
    """What one round says of the figure of a bar; a figure that is missing is as bad as can be."""
    if bar.figure == "ratio":
        return measured.ratio
    worst = float("inf") if bar.at_most else 0.0
    value = measured.server.figures.get(bar.figure, worst)
    if bar.over:
        limit = measured.limit.figures.get(bar.over, 0.0)
        return value / limit if limit else worst
    return value


def side_members(samples: Sequence[Sample]) -> dict[str, Any]:
    """The spread of one side's value and the medians of its CPU figures."""
    cpu = [sample.cpu.members() for sample in samples]
    return {
        **Spread.of(sample.value for sample in samples).members(),
        "cpu": {name: round(median(each[name] for each in cpu), 1) for name in cpu[0]},
    }


def sample_members(sample: Sample) -> dict[str, Any]:
    """A sample as a JSON object's members."""
    return {
        "value": round(sample.value, 3),
        "operations": sample.operations,
        "cpu": sample.cpu.members(),
        "figures": {name: round(value, 3) for name, value in sample.figures.items()},
        "faults": sample.faults,
    }


def store(directory: Path, document: Mapping[str, Any]) -> None:
    """Write a result beside those of the other scenarios."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (directory / f"{document['scenario']}.json").write_text(text, encoding="utf-8")


def load_all(directory: Path) -> list[dict[str, Any]]:
    """All stored results, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))]
