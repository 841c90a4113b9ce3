"""The one way in which what runs is changed: lock, load, decide, write, commit, and then tell whom it concerns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from arcentra_server.db.engine import Database, Row, Tx, new_id
from arcentra_server.db.execution import settle_stages
from arcentra_server.db.execution_write import write
from arcentra_server.domain.errors import WriteConflict
from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.lease_tokens import LeaseTokens
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.ports import AgentLinks, Wake

Answer = TypeVar("Answer")
_ATTEMPTS = 5


class ExecutionStore:
    """Runs changes of pipeline runs, each in one transaction, and publishes their consequences after the commit."""

    def __init__(
        self,
        database: Database,
        links: AgentLinks,
        tokens: LeaseTokens,
        *,
        on_change: Iterable[Wake],
        on_new_work: Iterable[Wake],
    ) -> None:
        self.database = database
        self._links = links
        self._tokens = tokens
        self._on_change = tuple(on_change)
        self._on_new_work = tuple(on_new_work)

    async def change(self, action: Callable[[Tx, Ledger], Awaitable[Answer]]) -> Answer:
        """Run an action that loads a ledger and decides; write what it decided.

        The action may run several times, when another writer was first; only the last one takes effect.

        Raises:
            WriteConflict: another writer was first, again and again.
            Unavailable: the database is away.
        """
        for attempt in range(_ATTEMPTS):
            ledger = Ledger(new_id, self._tokens.is_token)
            try:
                async with self.database.transaction() as tx:
                    answer = await action(tx, ledger)
                    await settle_stages(tx, ledger)
                    leased = await write(tx, ledger)
            except WriteConflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            self._publish(ledger, leased)
            return answer
        raise WriteConflict("another change was first, please repeat")

    def dispatches(self, rows: Iterable[Row]) -> list[Dispatch]:
        """Return leased rows as dispatches, with the tokens of their leases."""
        return [
            Dispatch(
                row["id"],
                self._tokens.token(row["id"]),
                row["step_run_id"],
                row["agent_id"],
                row["attempt"],
                row["dispatch"],
            )
            for row in rows
        ]

    def announce_new_work(self) -> None:
        """Hint that something was committed that the scheduler does not know at all: a run, an agent, labels."""
        for wake in (*self._on_new_work, *self._on_change):
            wake()

    def _publish(self, ledger: Ledger, leased: list[Row]) -> None:
        if leased:
            self._links.dispatch(self.dispatches(leased))
        if ledger.cancels:
            self._links.cancel(ledger.cancels)
        if ledger.releases:
            self._links.release(ledger.releases)
        for wake in self._on_change:
            wake()
