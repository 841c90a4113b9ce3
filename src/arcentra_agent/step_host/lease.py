"""Up to when the steps of this agent may run: the server renews all of its leases at once, by answering a heartbeat."""

from arcentra_agent.step_host.boot_clock import boottime

# A step is killed so long before the server gives it up, or a sixth of the lease, if that is shorter.
_MARGIN, _MARGIN_SHARE = 5.0, 1 / 6
_USUAL_DURATION = 30.0


class Lease:
    """Counted in boot time from the sending of the last heartbeat that was answered. `duration` is the server's."""

    def __init__(self) -> None:
        self.duration = _USUAL_DURATION
        self._sent_at: float | None = None

    @property
    def deadline(self) -> float:
        """The boot time at which steps are to be killed; before the first answer, counted from now."""
        sent_at = boottime() if self._sent_at is None else self._sent_at
        return sent_at + self.duration - min(_MARGIN, self.duration * _MARGIN_SHARE)

    def renew(self, sent_at: float) -> None:
        """Note that a heartbeat sent at this boot time was answered."""
        self._sent_at = max(sent_at, self._sent_at or sent_at)
