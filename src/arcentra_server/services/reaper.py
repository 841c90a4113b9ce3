"""What time does: agents that fall silent, leases that are not started, steps that run too long."""

from __future__ import annotations

from arcentra_server.db import agents, deadlines
from arcentra_server.db.engine import Tx
from arcentra_server.db.execution import load_steps
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.domain.execution import CancelCause, Event, Resource
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import AgentStatus, StepStatus

START_SECONDS = 15.0  # from a dispatch to the RUNNING report, else it is taken back (reliability.md, F10)
GRACE_SECONDS = 5.0  # what the agent gets to enforce the timeout of a step itself before the server does
LARGEST_BATCH = 200


class Reaper:
    """See the module. All its times are the database's."""

    def __init__(self, store: ExecutionStore) -> None:
        self._store = store

    async def run_once(self) -> None:
        """Act on everything that is overdue. What cannot be done keeps nothing else from being done.

        Raises:
            ExceptionGroup: of what could not be done.
        """
        errors = []
        for act in (self._lapsed_agents, self._orphaned, self._unstarted, self._overdue):
            try:
                await self._store.change(act)
            except Exception as error:  # noqa: BLE001 - raised below, with the others
                errors.append(error)
        if errors:
            raise ExceptionGroup("some of what is overdue could not be dealt with", errors)

    async def _lapsed_agents(self, tx: Tx, ledger: Ledger) -> None:
        silent = await deadlines.lapsed_agents(tx, LARGEST_BATCH)
        if not silent:
            return
        # Runs are locked before agents, everywhere; the agents are looked at again under their lock.
        await load_steps(tx, ledger, await agents.leased_steps(tx, silent))
        lapsed = set(await agents.lapsed(tx, silent))
        for step in list(ledger.steps.values()):
            if step.lease is not None and step.lease.agent_id in lapsed:
                ledger.lose(step, "the agent was lost while the step ran")
        told = [
            Event(Resource.AGENT, None, None, None, None, row["id"], AgentStatus.OFFLINE.value, row["status"])
            for row in await agents.mark_offline(tx, list(lapsed))
            if row["status"] != AgentStatus.OFFLINE.value
        ]
        ledger.events += told

    async def _orphaned(self, tx: Tx, ledger: Ledger) -> None:
        orphaned = await deadlines.orphaned_steps(tx, LARGEST_BATCH)
        await load_steps(tx, ledger, orphaned)
        for step_id in orphaned:
            ledger.abandon(ledger.steps[step_id], "the agent that has the workspace of the job is gone")

    async def _unstarted(self, tx: Tx, ledger: Ledger) -> None:
        overdue = await deadlines.unstarted_steps(tx, START_SECONDS, LARGEST_BATCH)
        await load_steps(tx, ledger, overdue)
        for step_id in overdue:
            step = ledger.steps[step_id]
            if step.status is StepStatus.QUEUED:
                ledger.lose(step, "not started in time", agent_gone=False)

    async def _overdue(self, tx: Tx, ledger: Ledger) -> None:
        overdue = await deadlines.overdue_steps(tx, GRACE_SECONDS, LARGEST_BATCH)
        await load_steps(tx, ledger, overdue)
        for step_id in overdue:
            step = ledger.steps[step_id]
            if step.status is StepStatus.RUNNING and step.cancel_cause is None:
                ledger.cancel_step(step, "ran longer than its timeout", CancelCause.TIMEOUT)
