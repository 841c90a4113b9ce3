"""What a fleet of fake agents saw."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from arcentra_api.agent.v1 import agent_pb2


def ignore(*_: object) -> None:
    """Take no notice."""


@dataclass(slots=True)
class Tally:
    """Counts over all agents. `expected` step runs make the work complete; times are `time.perf_counter` seconds."""

    expected: int
    on_first: Callable[[], None] = ignore
    on_dispatch: Callable[[agent_pb2.StepRun], None] = ignore
    dispatched: int = 0
    duplicates: int = 0
    refused: int = 0
    cancelled: int = 0
    done: int = 0
    messages_in: int = 0
    messages_out: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    _seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not self.expected:
            self.complete.set()

    def dispatch(self, step: agent_pb2.StepRun) -> bool:
        """Count a dispatched step run; answers False for one that was dispatched before, to any agent."""
        if step.step_run_id in self._seen or step.command_id in self._seen:
            self.duplicates += 1
            return False
        self._seen.update((step.step_run_id, step.command_id))
        if not self.dispatched:
            self.first_at = time.perf_counter()
            self.on_first()
        self.dispatched += 1
        self.on_dispatch(step)
        return True

    def finish(self, steps: int) -> None:
        """Count step runs whose SUCCESS is acknowledged."""
        self.done += steps
        self.last_at = time.perf_counter()
        if self.done >= self.expected:
            self.complete.set()

    def report(self) -> dict[str, float]:
        """The counts as a JSON object's members."""
        return {
            "dispatched": self.dispatched,
            "done": self.done,
            "duplicates": self.duplicates,
            "refused": self.refused,
            "cancelled": self.cancelled,
            "messages_in": self.messages_in,
            "messages_out": self.messages_out,
            "seconds": self.last_at - self.first_at,
        }
