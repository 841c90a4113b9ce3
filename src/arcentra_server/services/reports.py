"""Take the reports of agents: batched, in order, each with its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import step_runs
from arcentra_server.db.batcher import Batcher, Waiter
from arcentra_server.db.engine import Tx
from arcentra_server.db.execution import load_steps
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.domain.errors import ArcentraError, InvalidTransition, LeaseLost, NotLeased
from arcentra_server.domain.execution import StepReport
from arcentra_server.domain.ledger import FINISHED, LEASE_LOST, Ledger

Verdict = ArcentraError | None
"""None: the report is committed. Otherwise why it was refused; it changed nothing."""


class ReportService:
    """See the module. `run` must be running."""

    def __init__(self, store: ExecutionStore) -> None:
        self._store = store
        self._batcher: Batcher[Sequence[StepReport], list[Verdict]] = Batcher(self._commit)

    def submit(self, reports: Sequence[StepReport]) -> asyncio.Future[list[Verdict]]:
        """Hand in the reports of one message; the future resolves with their verdicts once they are committed."""
        return self._batcher.submit(reports)

    def hand_in(self, reports: Sequence[StepReport], waiter: Waiter[list[Verdict]]) -> None:
        """Do the same for a waiter that is told as soon as they are committed."""
        self._batcher.hand_in(reports, waiter)

    async def run(self) -> None:
        """Commit what is handed in until `close`."""
        await self._batcher.run()

    def close(self) -> None:
        self._batcher.close()

    async def _commit(self, batch: Sequence[Sequence[StepReport]]) -> list[list[Verdict]]:
        crashpoint("report.received")

        async def decide(tx: Tx, ledger: Ledger) -> list[list[Verdict]]:
            await load_steps(tx, ledger, list({report.step_id for reports in batch for report in reports}))
            verdicts = [[_take(ledger, report) for report in reports] for reports in batch]
            if any(isinstance(verdict, NotLeased) for message in verdicts for verdict in message):
                await self._distinguish(tx, ledger, batch, verdicts)
            return verdicts

        committed = await self._store.change(decide, place=True)
        crashpoint("report.after_commit")
        return committed

    async def _distinguish(
        self, tx: Tx, ledger: Ledger, batch: Sequence[Sequence[StepReport]], verdicts: list[list[Verdict]]
    ) -> None:
        """Tell an agent that once had the lease from one that never had it: the first only came too late."""
        refused: dict[UUID, list[tuple[int, int, UUID]]] = {}
        for place, message in enumerate(verdicts):
            for index, verdict in enumerate(message):
                if isinstance(verdict, NotLeased):
                    report = batch[place][index]
                    refused.setdefault(report.agent_id, []).append((place, index, report.step_id))
        for agent_id, places in refused.items():
            held = await step_runs.held_before(tx, [step_id for _, _, step_id in places], agent_id)
            for place, index, step_id in places:
                if step_id in held:
                    ended = ledger.steps[step_id].status.terminal
                    verdicts[place][index] = InvalidTransition(FINISHED) if ended else LeaseLost(LEASE_LOST)


def _take(ledger: Ledger, report: StepReport) -> Verdict:
    try:
        ledger.report(report)
    except ArcentraError as refusal:
        return refusal
    return None
