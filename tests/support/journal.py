"""Events as the journal holds them, for tests of what is made of them."""

from datetime import UTC, datetime
from uuid import UUID

from arcentra_server.db.events import EventRow
from arcentra_server.domain.execution import Resource

SOME_ID = UUID(int=1)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def event_row(
    identity: int,
    resource: Resource = Resource.RUN,
    status: str = "RUNNING",
    previous: str | None = None,
    *,
    xid: int = 1,
    message: str = "",
) -> EventRow:
    """Return an event of the resource with the id `SOME_ID`, in a run, job and step of the same id where it has them."""
    own = resource is not Resource.AGENT
    return EventRow(
        id=identity,
        xid=xid,
        at=AT,
        resource=resource,
        pipeline_id=None,
        run_id=SOME_ID if own else None,
        job_id=SOME_ID if resource in (Resource.STEP, Resource.JOB) else None,
        step_id=SOME_ID if resource is Resource.STEP else None,
        agent_id=None if own else SOME_ID,
        status=status,
        previous=previous,
        total=0,
        completed=0,
        failed=0,
        running=0,
        current=0,
        message=message,
        actor="",
    )
