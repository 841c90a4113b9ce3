"""Look for what must never be, put it right, and tell of it: in the log, in a counter, and in an event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from arcentra_server.db import invariants
from arcentra_server.db.bad_rows import BadRows
from arcentra_server.db.engine import Tx
from arcentra_server.db.execution import load_run, load_steps
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.domain.errors import Unavailable
from arcentra_server.domain.ledger import Ledger

LARGEST_BATCH = 100
_log = structlog.get_logger()

Count = Callable[[str, int], None]
"""Is told of repairs: their kind, and how many."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """Something that must never be: what it is called, how it is found, and what is done about it."""

    name: str
    find: Callable[[Tx, int], Awaitable[list[Any]]]
    act: Callable[[Tx, Ledger, Sequence[Any]], Awaitable[int]]
    bad: BadRows = field(default_factory=lambda: BadRows("watchdog"))


class Watchdog:
    """See the module. Several servers may look at once: what one has put right, the other finds in order."""

    def __init__(self, store: ExecutionStore, count: Count) -> None:
        self._store = store
        self._count = count
        self._rules = (
            _Rule("step_without_lease", invariants.unheld_steps, _fail_unheld),
            _Rule("step_not_in_queue", invariants.unqueued_steps, _queue_again),
            _Rule("stray_queue_row", invariants.stray_queue_rows, _take_from_queue),
            _Rule("slot_without_step", invariants.stray_leases, _end_leases),
            _Rule("job_of_ended_run", invariants.left_jobs, _end_left_jobs),
            _Rule("stalled_job", invariants.stalled_jobs, _end_stalled_jobs),
            _Rule("stalled_run", invariants.stalled_runs, _end_stalled_runs),
            _Rule("key_of_ended_job", invariants.stray_keys, _release_keys),
        )

    async def run_once(self) -> int:
        """Look once; return how many things were put right.

        Raises:
            ExceptionGroup: of what could not be put right; the rest was.
        """
        repaired = 0
        errors: list[Exception] = []
        for rule in self._rules:
            try:
                async with self._store.database.transaction(snapshot=True) as tx:
                    rows = await rule.find(tx, LARGEST_BATCH)
                answers, failed = await rule.bad.each(self._store, rows, rule.act)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - raised below, with the others
                errors.append(error)
                continue
            errors += failed.values()
            if done := sum(answers):
                _log.error("repaired", rule=rule.name, count=done, rows=[str(row) for row in rows])
                self._count(rule.name, done)
                repaired += done
        if errors:
            raise ExceptionGroup("some of what does not fit together could not be put right", errors)
        return repaired


async def _fail_unheld(tx: Tx, ledger: Ledger, step_ids: Sequence[UUID]) -> int:
    await load_steps(tx, ledger, step_ids)
    return sum(ledger.fail_unheld(ledger.steps[one]) for one in step_ids if one in ledger.steps)


async def _queue_again(tx: Tx, ledger: Ledger, step_ids: Sequence[UUID]) -> int:
    await load_steps(tx, ledger, step_ids)
    return sum(ledger.queue_again(ledger.steps[one]) for one in await invariants.still_unqueued(tx, step_ids))


async def _take_from_queue(tx: Tx, ledger: Ledger, step_ids: Sequence[UUID]) -> int:
    await load_steps(tx, ledger, step_ids)
    gone = await invariants.take_from_queue(tx, step_ids)
    for step_id in gone:
        ledger.tell_repair(ledger.steps[step_id], "it was in the queue without waiting there")
    return len(gone)


async def _end_leases(tx: Tx, ledger: Ledger, step_ids: Sequence[UUID]) -> int:
    await load_steps(tx, ledger, step_ids)
    ended = await invariants.end_leases(tx, step_ids)
    for step_id in ended:
        ledger.tell_repair(ledger.steps[step_id], "it had ended, and took a slot of its agent")
    return len(ended)


async def _end_left_jobs(tx: Tx, ledger: Ledger, jobs: Sequence[tuple[UUID, UUID]]) -> int:
    await _load_runs(tx, ledger, jobs)
    return sum(ledger.end_left_job(ledger.jobs[job_id]) for _, job_id in jobs if job_id in ledger.jobs)


async def _end_stalled_jobs(tx: Tx, ledger: Ledger, jobs: Sequence[tuple[UUID, UUID]]) -> int:
    await _load_runs(tx, ledger, jobs)
    return sum(ledger.end_stalled_job(ledger.jobs[job_id]) for _, job_id in jobs if job_id in ledger.jobs)


async def _end_stalled_runs(tx: Tx, ledger: Ledger, run_ids: Sequence[UUID]) -> int:
    runs = [await load_run(tx, ledger, run_id) for run_id in run_ids]
    return sum(ledger.end_stalled_run(run) for run in runs if run is not None)


async def _release_keys(tx: Tx, ledger: Ledger, jobs: Sequence[tuple[UUID, UUID]]) -> int:
    await _load_runs(tx, ledger, jobs)
    return sum(ledger.release_left_key(ledger.jobs[job_id]) for _, job_id in jobs if job_id in ledger.jobs)


async def _load_runs(tx: Tx, ledger: Ledger, jobs: Sequence[tuple[UUID, UUID]]) -> None:
    for run_id in sorted({run_id for run_id, _ in jobs}):
        await load_run(tx, ledger, run_id)
