"""What each scenario must reach. `bar` fails the run; `aim` is where it has to get, and is only shown."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure of a scenario and the least (or, with `at_most`, the greatest) value it may have.

    The figure `ratio` is the server's value over that of the limit in the same run; any other is a figure of the
    server itself.
    """

    figure: str
    bar: float | None
    aim: float
    at_most: bool = False

    def passed_by(self, value: float) -> bool:
        """Whether a value is within the bar; a figure without one passes."""
        if self.bar is None:
            return True
        return value <= self.bar if self.at_most else value >= self.bar


BARS: dict[str, tuple[Bar, ...]] = {
    "lifecycle-20x20": (Bar("ratio", bar=0.2, aim=0.35),),
    "lifecycle-1slot": (Bar("ratio", bar=0.35, aim=0.5),),
    "big-run": (
        Bar("ratio", bar=1.2, aim=1.0, at_most=True),
        Bar("validate_seconds", bar=1.0, aim=0.5, at_most=True),
        Bar("trigger_seconds", bar=1.0, aim=0.5, at_most=True),
    ),
    "latency": (
        Bar("ratio", bar=4.0, aim=2.0, at_most=True),
        Bar("dispatch_p99_ms", bar=None, aim=50.0, at_most=True),
    ),
}
