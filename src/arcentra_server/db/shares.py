"""Fair share between pipelines: start-time fair queueing, kept in the rows of the queue and of the leases.

A step run that is queued gets a share: one more than the largest that its pipeline has among those that it stands in line
with, and more than the level. In line are step runs of one selector and one priority that any agent may take and whose
runs are not paused: what waits for something else pushes nothing back. The level is the largest share of a lease: how far
the queue has been served. A pipeline that has much in the queue so goes before another only as far as it is not ahead of
it, and one that comes anew starts level with the rest.

The level never falls, and rises by no more than one for each lease of a free step run: one that is served before its
turn, as it is urgent or as only its agents have room, does not put the turns of others behind those of its pipeline.
"""

from __future__ import annotations

LEVEL = "coalesce((SELECT max(share) FROM leases), 0)"


def last_share(pipeline: str, selector: str, priority: str) -> str:
    """Return SQL for the share after which the next step run comes of a pipeline, a selector and a priority.

    All three are SQL for them.
    """
    queued = f"""(SELECT max(share) FROM step_queue
                   WHERE pipeline_id = {pipeline} AND selector_id = {selector} AND priority = {priority}
                     AND agent_id IS NULL AND NOT held)"""
    return f"greatest({LEVEL}, {queued})"
