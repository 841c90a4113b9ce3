"""What time does: agents that fall silent, leases that are not started, steps that run too long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import contact, deadlines
from arcentra_server.db.bad_rows import BadRows
from arcentra_server.db.engine import Tx
from arcentra_server.db.execution import load_run, load_steps
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.domain.errors import GivenUp, NoRoom, Unavailable
from arcentra_server.domain.execution import CancelCause, Closing, Event, Resource
from arcentra_server.domain.lapse_brake import to_spare
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import AgentStatus, GateState, RunStatus, StepStatus

START_SECONDS = 15.0  # from a dispatch to the RUNNING report, else it is taken back (reliability.md, F10)
AGAIN_SECONDS = 2.0  # before a step that was not started is placed again
GRACE_SECONDS = 5.0  # what the agent gets to enforce the timeout of a step itself before the server does
IGNORED_SECONDS = 120.0  # from the request to end a step to its end without the agent
LARGEST_BATCH = 200
LARGEST_LOSS = 2_000  # step runs of lost agents in one change
LAPSING_SHARE = 1 / 3  # of the lease time: who is not heard of until so long before its end has missed a heartbeat
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Due:
    """Something that becomes overdue: how it is found, without what rests, and what is done about it.

    `of_contact`: that writes what heartbeats write, so that they have no room either where it has none.
    """

    find: Callable[[Tx, list[Any]], Awaitable[list[Any]]]
    act: Callable[[Tx, Ledger, Sequence[Any]], Awaitable[None]]
    of_contact: bool = False
    bad: BadRows = field(default_factory=lambda: BadRows("reaper"))


class Reaper:
    """See the module. All its times are the database's.

    Args:
        store: Where everything is kept.
        lease_seconds: How long leases hold without a word of their agent.
        unwritten: Answers which agents were heard of here though the database does not know it; see `AgentService`.
    """

    def __init__(
        self, store: ExecutionStore, *, lease_seconds: float, unwritten: Callable[[], AbstractSet[UUID]] = frozenset
    ) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._unwritten = unwritten
        self._was_away = False
        many = LARGEST_BATCH
        self._dues = (
            _Due(self._find_lapsed, self._lapsed_agents, of_contact=True),
            # The steps of an agent each on its own: one that cannot be dealt with keeps no other from it.
            _Due(lambda tx, rest: deadlines.forsaken_steps(tx, rest, LARGEST_LOSS), self._forsaken),
            _Due(lambda tx, rest: deadlines.orphaned_steps(tx, rest, many), self._orphaned),
            _Due(lambda tx, rest: deadlines.unstarted_steps(tx, START_SECONDS, rest, many), self._unstarted),
            _Due(lambda tx, rest: deadlines.overdue_steps(tx, GRACE_SECONDS, rest, many), self._overdue_steps),
            _Due(lambda tx, rest: deadlines.overdue_jobs(tx, rest, many), self._overdue_jobs),
            _Due(lambda tx, rest: deadlines.overdue_runs(tx, rest, many), self._overdue_runs),
            _Due(lambda tx, rest: deadlines.ignored_cancels(tx, IGNORED_SECONDS, rest, many), self._unanswered),
        )

    async def run_once(self) -> None:
        """Act on everything that is overdue. What cannot be done keeps nothing else from being done.

        Raises:
            ExceptionGroup: of what could not be done.
            Unavailable: the database is away. All agents get a full lease time when it is back.
        """
        errors: list[Exception] = []
        with self._going_on(errors):
            await self._forgive_an_outage()
        for due in self._dues:
            with self._going_on(errors, of_contact=due.of_contact):
                async with self._store.database.statements() as tx:
                    rows = await due.find(tx, due.bad.all_passed_over())
                errors += (await due.bad.each(self._store, rows, due.act))[1].values()
                if rows:
                    crashpoint("reaper.after_commit")
        if errors:
            raise ExceptionGroup("some of what is overdue could not be dealt with", errors)

    @contextmanager
    def _going_on(self, errors: list[Exception], *, of_contact: bool = False) -> Iterator[None]:
        """Keep what one part could not do for the end, unless the database is away: one that gave up a part is there.

        What takes too long says nothing of heartbeats: of those that could not be written here `unwritten` tells. Where
        contact cannot be written, as the disk is full, heartbeats cannot be through other servers either.
        """
        try:
            yield
        except GivenUp as error:
            self._was_away |= of_contact and isinstance(error, NoRoom)
            errors.append(error)
        except Unavailable:
            self._was_away = True
            raise
        except Exception as error:  # noqa: BLE001 - raised by `run_once`, with the others
            errors.append(error)

    async def _forgive_an_outage(self) -> None:
        """Give every agent a full lease after the database was away: nobody could renew one meanwhile."""
        if self._was_away:
            async with self._store.database.transaction() as tx:
                await contact.rearm(tx, self._lease_seconds)
            self._was_away = False

    async def _unanswered(self, tx: Tx, ledger: Ledger, ignored: Sequence[UUID]) -> None:
        await load_steps(tx, ledger, ignored)
        for step_id in ignored:
            ledger.end_cancelled(ledger.steps[step_id])

    async def _find_lapsed(self, tx: Tx, rest: list[Any]) -> list[UUID]:
        """Return the agents that are lost, and give those one more lease time that fell silent with most others."""
        if self._was_away:
            return []  # nobody could be forgiven yet
        # Passed over in the query: however many they are, they take no place of one that is lost.
        lapsed = await deadlines.lapsed_agents(tx, [*rest, *self._unwritten()], LARGEST_BATCH)
        if not lapsed:
            return []
        spared = to_spare(await contact.holders(tx, self._lease_seconds * LAPSING_SHARE))
        if spared:
            spared = await contact.spare(tx, spared, self._lease_seconds)
            _log.warning("mass_lapse", spared=len(spared), action="waiting one more lease time for these agents")
        return [agent_id for agent_id in lapsed if agent_id not in set(spared)]

    async def _lapsed_agents(self, tx: Tx, ledger: Ledger, silent: Sequence[UUID]) -> None:
        lapsed = await contact.lapsed(tx, list(silent))
        ledger.events += [
            Event(Resource.AGENT, None, None, None, None, row["id"], AgentStatus.OFFLINE.value, row["status"])
            for row in await contact.mark_offline(tx, lapsed)
            if row["status"] != AgentStatus.OFFLINE.value
        ]
        crashpoint("reaper.before_commit")

    async def _forsaken(self, tx: Tx, ledger: Ledger, forsaken: Sequence[UUID]) -> None:
        # Runs are locked before agents, everywhere; the agents, which may be back, are looked at again under their lock.
        await load_steps(tx, ledger, forsaken)
        steps = [ledger.steps[step_id] for step_id in forsaken]
        holders = {step.lease.agent_id for step in steps if step.lease is not None}
        away = set(await contact.lapsed(tx, list(holders)))
        for step in steps:
            if step.lease is not None and step.lease.agent_id in away:
                ledger.lose(step, "the agent was lost while the step ran")

    async def _orphaned(self, tx: Tx, ledger: Ledger, orphaned: Sequence[UUID]) -> None:
        await load_steps(tx, ledger, orphaned)
        for step_id in orphaned:
            ledger.abandon(ledger.steps[step_id], "the agent that has the workspace of the job is gone")

    async def _unstarted(self, tx: Tx, ledger: Ledger, overdue: Sequence[UUID]) -> None:
        await load_steps(tx, ledger, overdue)
        for step_id in overdue:
            step = ledger.steps[step_id]
            if step.status is StepStatus.QUEUED:
                ledger.lose(step, "not started in time", agent_gone=False, delay_seconds=AGAIN_SECONDS)

    async def _overdue_jobs(self, tx: Tx, ledger: Ledger, overdue: Sequence[tuple[UUID, UUID]]) -> None:
        # Locked in one order by everybody; several jobs of one run are ended together.
        for run_id in sorted({run_id for run_id, _ in overdue}):
            await load_run(tx, ledger, run_id)
        for _, job_id in overdue:
            job = ledger.jobs[job_id]
            # One that has come to its gate meanwhile has done its work in time.
            waits = job.gate is GateState.WAITING
            if job.status is RunStatus.RUNNING and job.closing is Closing.NO and not waits:
                ledger.cancel_job(job, "the job ran longer than its timeout", CancelCause.TIMEOUT)

    async def _overdue_runs(self, tx: Tx, ledger: Ledger, overdue: Sequence[UUID]) -> None:
        for run_id in overdue:
            run = await load_run(tx, ledger, run_id)
            if run is not None and not run.status.terminal and not run.ending:
                ledger.time_out_run(run, "the run took longer than its timeout")

    async def _overdue_steps(self, tx: Tx, ledger: Ledger, overdue: Sequence[UUID]) -> None:
        await load_steps(tx, ledger, overdue)
        for step_id in overdue:
            step = ledger.steps[step_id]
            if step.status is StepStatus.RUNNING and step.cancel_cause is None:
                ledger.cancel_step(step, "ran longer than its timeout", CancelCause.TIMEOUT)
