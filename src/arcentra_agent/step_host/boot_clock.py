"""The clock that leases are measured by on this host: it never jumps, and goes on while the machine sleeps."""

import time

_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Return the seconds since the machine was started, the same for all its processes."""
    return time.clock_gettime(_CLOCK)
