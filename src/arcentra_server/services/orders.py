"""Bring to the agents that are connected here what another server decided about them: leases and cancellations."""

from __future__ import annotations

from arcentra_server.db import claims, orders
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.domain.ports import AgentLinks, Wake

MOST_CANCELS = 1_000


class OrderService:
    """See the module. A pass each second is what makes it certain; hints of other servers make it quick.

    `go_on` is called when a pass has left something to be sent for the next.
    """

    def __init__(self, store: ExecutionStore, links: AgentLinks, go_on: Wake = lambda: None) -> None:
        self._store = store
        self._links = links
        self._go_on = go_on

    async def run_once(self) -> int:
        """Send what agents here should have been sent and were not; return how many leases and cancellations.

        Leases of very many bytes are sent with several passes. A cancellation is sent until it is obeyed, as the message
        may be lost with its channel.
        """
        here = list(self._links.reachable())
        if not here:
            return 0
        async with self._store.database.statements() as tx:
            cancels = await orders.pending_cancels(tx, here, MOST_CANCELS)
            leases, fresh = await orders.unstarted_leases(tx)
            unsent = self._links.unsent(leases) - fresh
            rows = await claims.first_unsent(tx, list(unsent)) if unsent else []
            dispatches = await self._store.dispatches(tx, rows)
        self._links.cancel(cancels)
        self._links.dispatch(dispatches)
        await self._store.fail_unsendable()
        if rows and len(rows) < len(unsent):
            self._go_on()
        return len(cancels) + len(dispatches)
