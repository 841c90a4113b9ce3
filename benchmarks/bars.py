"""What each scenario must reach. `bar` fails the run; `aim` is where it has to get, and is only shown.

A bar says what is wanted of the server, whether it is there yet or not.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure of a scenario and the least (or, with `at_most`, the greatest) value it may have.

    The figure `ratio` is the server's value over that of the limit in the same run; any other is a figure of the
    server itself or, with `over`, of the server over that figure of the limit in the same run.
    """

    figure: str
    bar: float | None
    aim: float | None
    at_most: bool = False
    over: str = ""

    @property
    def name(self) -> str:
        """What is held against the bar."""
        return f"{self.figure} / {self.over}" if self.over else self.figure

    def passed_by(self, value: float) -> bool:
        """Whether a value is within the bar; a figure without one passes."""
        if self.bar is None:
            return True
        return value <= self.bar if self.at_most else value >= self.bar


BARS: dict[str, tuple[Bar, ...]] = {
    "lifecycle-20x20": (Bar("ratio", bar=0.35, aim=0.6),),
    "lifecycle-1slot": (Bar("ratio", bar=0.5, aim=0.8),),
    "cost": (
        Bar("ratio", bar=3.0, aim=1.7, at_most=True),
        Bar("commits_per_lifecycle", bar=0.3, aim=0.1, at_most=True),
    ),
    "peers": (
        Bar("ratio", bar=10.0, aim=20.0),
        Bar("lifecycles_per_second", over="buildbot_builds_per_second", bar=200.0, aim=1_000.0),
        Bar("start_p50_ms", over="buildbot_start_p50_ms", bar=1 / 20, aim=1 / 50, at_most=True),
    ),
    "latency": (
        Bar("ratio", bar=2.0, aim=1.3, at_most=True),
        Bar("dispatch_p99_ms", bar=50.0, aim=25.0, at_most=True),
    ),
    "backlog": (Bar("ratio", bar=0.9, aim=1.0),),
    "idle-agents": (
        Bar("ratio", bar=None, aim=None, at_most=True),
        Bar("lost", bar=0.0, aim=0.0, at_most=True),
        Bar("open_seconds", bar=20.0, aim=10.0, at_most=True),
        Bar("rss_kb_each", bar=100.0, aim=60.0, at_most=True),
        Bar("core_percent", bar=25.0, aim=None, at_most=True),
        Bar("renewal_commits_per_second", bar=2.0, aim=None, at_most=True),
    ),
    "replicas": (Bar("ratio", bar=1.5, aim=1.1, at_most=True),),
    "big-run": (
        Bar("ratio", bar=1.2, aim=1.0, at_most=True),
        Bar("validate_seconds", bar=1.0, aim=0.5, at_most=True),
        Bar("trigger_seconds", bar=1.0, aim=0.5, at_most=True),
    ),
}
