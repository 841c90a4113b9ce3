"""The threads of gRPC's core do not interrupt the event loop (docs/adr/0021)."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")


def yield_to_loop() -> None:
    """Let the other threads of this process wait for a free core, or their turn, when they wake up (SCHED_BATCH).

    To be called in the thread of the event loop, once gRPC has started: what its threads start later is as they are. They
    get as much of the cores as before. Where the system has no such thing, nothing is done.
    """
    if sys.platform != "linux":
        return
    mine = threading.get_native_id()
    with suppress(OSError):  # there is no /proc
        for task in _TASKS.iterdir():
            with suppress(OSError):  # it has ended, or a sandbox forbids it
                if int(task.name) != mine:
                    os.sched_setscheduler(int(task.name), os.SCHED_BATCH, os.sched_param(0))
