"""Concurrency keys: give out those that are free, the oldest job first; cancel what a younger run supersedes; list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from uuid import UUID

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import concurrency
from arcentra_server.db.bad_rows import BadRows
from arcentra_server.db.bell import WorkBell
from arcentra_server.db.concurrency import ClaimRow, Waiter
from arcentra_server.db.engine import Tx
from arcentra_server.db.execution import load_jobs, lock_run
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.domain.ledger import Ledger

LARGEST_PASS = 1_000
LARGEST_GIFT = 200  # jobs in one change, each perhaps with a lock of its own
MOST_LISTED = 10_000


class ConcurrencyService:
    """See the module. A key is given back in the transaction that ends its job, whatever ended it.

    `bell` rings when a key may have become free, or somebody may want one.
    """

    def __init__(self, store: ExecutionStore, bell: WorkBell) -> None:
        self._store = store
        self._bell = bell
        self._bad = BadRows("concurrency")
        self._bad_old = BadRows("concurrency")

    async def run_once(self) -> None:
        """Give out what is free, until nothing is. Several servers may do this at once.

        Raises:
            ExceptionGroup: of jobs that could not be dealt with; the others were.
        """
        self._bell.answer()
        errors = await self._supersede()
        failed: dict[UUID, Exception] = {}
        while await self._give_out(failed):
            pass
        errors += failed.values()
        if errors:
            raise ExceptionGroup("some concurrency keys could not be dealt with", errors)

    async def list_claims(self, namespace: str, key: str) -> list[ClaimRow]:
        """Return who holds and who waits, by key; empty restricts nothing."""
        async with self._store.database.transaction() as tx:
            return await concurrency.list_claims(tx, namespace, key, MOST_LISTED)

    async def _give_out(self, failed: dict[UUID, Exception]) -> int:
        """Give out what is free now, all of a run together; return how many. What fails is tried once."""
        async with self._store.database.statements() as tx:
            waiting = await concurrency.next_waiters(tx, self._bad.all_passed_over(), LARGEST_PASS)
        given = 0
        for run_id, group in groupby(waiting, key=lambda one: one.run_id):
            waiters = {one.job_run_id: one for one in group if one.job_run_id not in failed}
            jobs = list(waiters)
            for first in range(0, len(jobs), LARGEST_GIFT):
                act = partial(self._give, run_id, waiters)
                answers, errors = await self._bad.each(self._store, jobs[first : first + LARGEST_GIFT], act)
                crashpoint("concurrency.after_commit")
                given += sum(answers)
                failed |= errors
        return given

    async def _give(
        self, run_id: UUID, waiters: Mapping[UUID, Waiter], tx: Tx, ledger: Ledger, job_ids: Sequence[UUID]
    ) -> int:
        if await lock_run(tx, ledger, run_id) is None:
            return 0
        keys = [(waiters[one].namespace, waiters[one].key) for one in job_ids]
        taken = await concurrency.take(tx, keys, job_ids, self._bad.all_passed_over())
        for job in await load_jobs(tx, ledger, taken):
            ledger.admit_holder(job)
        return len(taken)

    async def _supersede(self) -> list[Exception]:
        async with self._store.database.statements() as tx:
            older = await concurrency.superseded(tx, self._bad_old.all_passed_over(), LARGEST_PASS)
        errors: list[Exception] = []
        for run_id, job_id in older:
            _, failed = await self._bad_old.each(self._store, [job_id], partial(self._cancel, run_id))
            errors += failed.values()
        return errors

    @staticmethod
    async def _cancel(run_id: UUID, tx: Tx, ledger: Ledger, job_ids: Sequence[UUID]) -> None:
        if await lock_run(tx, ledger, run_id) is None:
            return
        # Looked at again, now that nothing of the run changes: the younger one may have ended meanwhile.
        by_runs = await concurrency.superseding(tx, job_ids)
        for job in await load_jobs(tx, ledger, list(by_runs)):
            ledger.cancel_job(job, f"superseded by run {by_runs[job.id]}, which wants the same concurrency key")
