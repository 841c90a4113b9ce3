"""Look at triggers and at the ledger of what came of them; forget what is old."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from arcentra_server.db import hook_deliveries, trigger_events, triggers
from arcentra_server.db.clock import Clock, database_time
from arcentra_server.db.engine import Database
from arcentra_server.db.paging import Page
from arcentra_server.db.trigger_events import TriggerEventRow
from arcentra_server.db.triggers import TriggerRow
from arcentra_server.domain.trigger_entries import TriggerOutcome

DELIVERY_DAYS = 7  # for which the same delivery is known again (security.md, S30)


class TriggerService:
    """See the module. The ledger keeps its entries for `ledger_days`, and of them the newest `ledger_rows`."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock = database_time,
        ledger_days: float = 30,
        ledger_rows: int = 100_000,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ledger_age = timedelta(days=ledger_days)
        self._ledger_rows = ledger_rows

    async def list_triggers(self, *, pipeline_id: UUID | None, namespace: str) -> list[TriggerRow]:
        """Return the schedules and event triggers of pipelines."""
        async with self._database.transaction() as tx:
            return await triggers.list_all(tx, pipeline_id=pipeline_id, namespace=namespace)

    async def list_events(
        self,
        *,
        pipeline_id: UUID | None,
        namespace: str,
        hook_id: UUID | None,
        outcome: TriggerOutcome | None,
        page: Page,
    ) -> tuple[list[TriggerEventRow], int]:
        """Return one page of the ledger, the newest entries first, and how many there are."""
        async with self._database.transaction() as tx:
            return await trigger_events.list_page(
                tx, pipeline_id=pipeline_id, namespace=namespace, hook_id=hook_id, outcome=outcome, page=page
            )

    async def prune(self) -> int:
        """Forget entries and deliveries that are old, or too many; return how many were forgotten."""
        forgotten = 0
        while True:
            async with self._database.transaction() as tx:
                now = await self._clock(tx)
                done = await trigger_events.prune(tx, now - self._ledger_age, self._ledger_rows)
                done += await hook_deliveries.prune(tx, now - timedelta(days=DELIVERY_DAYS))
            if not done:
                return forgotten
            forgotten += done
