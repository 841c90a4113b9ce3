"""Fair share between pipelines: start-time fair queueing, kept in the rows of the queue and of the leases.

A step run that is queued gets a share: one more than the largest that its pipeline has in the queue, and more than the
level. The level is the share of the newest lease: how far the queue has been served. A pipeline that has much in the
queue so goes before another only as far as it is not ahead of it, and one that comes anew starts level with the rest.

The level never falls, and rises by no more than one for each lease of a free step run: one that is served before its
turn, as it is urgent or as only its agents have room, does not put the turns of others behind those of its pipeline.
"""

from __future__ import annotations

LEVEL = "coalesce((SELECT share FROM leases ORDER BY id DESC LIMIT 1), 0)"


def last_share(pipeline: str) -> str:
    """Return SQL for the share after which the next step run of a pipeline comes; `pipeline` is SQL for its id."""
    queued = f"(SELECT max(share) FROM step_queue WHERE pipeline_id = {pipeline})"
    return f"greatest({LEVEL}, {queued})"
