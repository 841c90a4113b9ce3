"""What a scenario is: one measure of one load, on the server and on its limit."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.harness.cpu import CpuUse
from benchmarks.harness.subjects import Side, Subject, real_server


class SkippedError(Exception):
    """A scenario cannot be measured on this machine; the text says why. It neither passes nor fails."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one side. `value` is in the scenario's unit; `faults` say why the run does not count."""

    value: float
    operations: int
    cpu: CpuUse
    figures: dict[str, float]
    faults: list[str]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A line of the table of results.

    `measure_once` takes a fresh subject and whether this is a smoke run (tiny sizes), and answers a sample.
    """

    name: str
    measure: str
    unit: str
    operation: str
    limit_is: str
    limit: Side
    measure_once: Callable[[Subject, bool], Awaitable[Sample]]
    server: Side = real_server
