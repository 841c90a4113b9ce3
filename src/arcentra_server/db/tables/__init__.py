"""The schema. It describes and defends; queries are SQL text in the modules beside this one.

States are text with a CHECK, so that adding one is cheap. `finished_at` is set if and only if the state is final; a
step run has at most one lease that has not ended. Columns that hold wire forms (`dispatch`) are opaque here.
"""

from __future__ import annotations

from arcentra_server.db.tables import agents, notifications, pipelines, records, runs, secrets, triggers
from arcentra_server.db.tables.columns import metadata

__all__ = ["agents", "metadata", "notifications", "pipelines", "records", "runs", "secrets", "triggers"]
