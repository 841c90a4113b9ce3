"""Whether the agent is in contact with the server, and since when it is not."""

from dataclasses import dataclass

from arcentra_agent.step_host.boot_clock import boottime


@dataclass(slots=True)
class Contact:
    """`waits_for`: what keeps the agent from work while it is in contact, empty for nothing.

    `heartbeat_interval`: seconds, as the server wants it; 0 before it has said so.
    """

    is_connected: bool = False
    waits_for: str = ""
    heartbeat_interval: float = 0.0
    _last_at: float | None = None

    def note(self) -> None:
        """Note that the server has said something just now."""
        self._last_at = boottime()

    @property
    def seconds_ago(self) -> float | None:
        """When the server last said something; None before it ever did in the life of this process."""
        return None if self._last_at is None else boottime() - self._last_at
