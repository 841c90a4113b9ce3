"""Step runs in the queue, by SQL."""

from uuid import UUID

from arcentra_server.db.engine import Tx
from arcentra_server.domain.states import StepStatus
from tests.support import factories


async def fill(
    tx: Tx, number: int, *, agent: UUID | None = None, selector: int = 1, priority: int = 0, share: int = 0
) -> list[UUID]:
    """Queue `number` step runs of a new run, oldest first."""
    pipeline = await factories.pipeline(tx)
    run = await factories.run(tx, pipeline, total_jobs=number)
    steps = []
    for _ in range(number):
        step = await factories.step(tx, await factories.job(tx, run), status=StepStatus.QUEUED)
        await tx.execute(
            """INSERT INTO step_queue (step_run_id, selector_id, run_id, agent_id, pipeline_id, priority, share)
               VALUES ($1, $2, $3, $4, $5, $6, $7)""",
            step,
            selector,
            run,
            agent,
            pipeline,
            priority,
            share,
        )
        steps.append(step)
    return steps
