"""Start the run of a tick or an event: what keeps it from starting is an outcome, not an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from arcentra_server.db import run_starter
from arcentra_server.domain.errors import ArcentraError, Unavailable, WriteConflict
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.trigger_entries import TriggerOutcome

StartRun = Callable[[UUID, Trigger], Awaitable[run_starter.Started]]
"""Starts a run of a pipeline. `RunStarter.start` is one."""

DISABLED = "the pipeline is disabled"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Started:
    """What came of it: FIRED with the run and what is to be said of it, or REFUSED with the reason."""

    outcome: TriggerOutcome
    reason: str = ""
    run_id: UUID | None = None


async def start_triggered(start: StartRun, pipeline_id: UUID, trigger: Trigger) -> Started:
    """Start a run that nobody asked for by a call. The same `request_id` answers with the same run.

    Raises:
        Unavailable: it is not known whether it was started: try again.
        WriteConflict: another change was first: try again.
    """
    try:
        started = await start(pipeline_id, trigger)
    except (Unavailable, WriteConflict):
        raise
    except ArcentraError as error:
        return Started(TriggerOutcome.REFUSED, str(error))
    except Exception:  # noqa: BLE001 - whatever it is, it is of this pipeline, and the others go on
        _log.exception("trigger_failed", pipeline_id=str(pipeline_id), request_id=trigger.request_id)
        return Started(TriggerOutcome.REFUSED, "internal error: the server's log says more")
    return Started(TriggerOutcome.FIRED, started.not_cloned, started.run_id)
