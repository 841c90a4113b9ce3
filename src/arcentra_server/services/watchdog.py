"""Look for what must never be, put it right, and tell of it: in the log, in a counter, and in an event."""

from __future__ import annotations

import asyncio
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
from arcentra_server.db.invariants import Look
from arcentra_server.domain.errors import Unavailable
from arcentra_server.domain.execution import JobState
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.ledger_repairs import REPAIRED

LARGEST_BATCH = 100
MOST_BATCHES = 10  # of a rule in one pass: what others wait for is looked at as well
MORE_SECONDS = 1.0  # until the next pass when the last left something: after an upgrade thousands of rows may be due
_log = structlog.get_logger()

Count = Callable[[str, int], None]
"""Is told of repairs: their kind, and how many."""

_Job = tuple[UUID, UUID]
"""A job run, after its run."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """Something that must never be: what it is called, how it is found, and what is done about it."""

    name: str
    find: Callable[[Tx, Look], Awaitable[list[Any]]]
    act: Callable[[Tx, Ledger, Sequence[Any]], Awaitable[list[Any]]]
    bad: BadRows = field(default_factory=lambda: BadRows("watchdog"))


class Watchdog:
    """See the module. Several servers may look at once: what one has put right, the other finds in order."""

    def __init__(self, store: ExecutionStore, count: Count) -> None:
        self._store = store
        self._count = count
        self._more = asyncio.Event()
        self._turn = invariants.Turn()
        self._all_seen = False
        self._rules = (
            _Rule("step_without_lease", invariants.unheld_steps, _fail_unheld),
            _Rule("step_not_in_queue", invariants.unqueued_steps, _queue_again),
            _Rule("stray_queue_row", invariants.stray_queue_rows, _take_from_queue),
            _Rule("untimed_queue_row", invariants.untimed_queue_rows, _let_time_go_on),
            _Rule("slot_without_step", invariants.stray_leases, _end_leases),
            _Rule("step_of_left_agent", invariants.left_leases, _lose),
            _Rule("job_of_ended_run", invariants.left_jobs, _end_left_jobs),
            _Rule("stalled_job", invariants.stalled_jobs, _end_stalled_jobs),
            _Rule("stalled_run", invariants.stalled_runs, _end_stalled_runs),
            _Rule("key_of_ended_job", invariants.stray_keys, _release_keys),
        )

    async def run_once(self) -> int:
        """Look once, at the runs whose turn it is; return how many things were put right.

        Raises:
            ExceptionGroup: of what could not be put right; the rest was.
        """
        repaired = 0
        errors: list[Exception] = []
        self._more.clear()
        async with self._store.database.transaction(snapshot=True) as tx:
            runs, turn = await invariants.runs_in_turn(tx, self._turn)
        for rule in self._rules:
            for _ in range(MOST_BATCHES):
                try:
                    found, done, failed = await self._batch(rule, runs)
                except Unavailable:
                    raise
                except Exception as error:  # noqa: BLE001 - raised below, with the others
                    errors.append(error)
                    break
                repaired += done
                errors += failed
                # Where nothing could be done, or another server did it, the next pass has time.
                if found < LARGEST_BATCH or not done or failed:
                    break
            else:
                self._more.set()
        if not self._more.is_set():
            self._go_on(turn)
        if errors:
            raise ExceptionGroup("some of what does not fit together could not be put right", errors)
        return repaired

    def _go_on(self, turn: invariants.Turn) -> None:
        """Let the next runs have their turn: at once where this process has not seen all of them, or more have ended."""
        self._turn = turn
        self._all_seen |= turn.after == invariants.START
        if not self._all_seen or turn.ended_left:
            self._more.set()

    async def wait(self) -> None:
        """Return, a little later, when the last pass left something that it could have put right, or not seen yet."""
        await self._more.wait()
        await asyncio.sleep(MORE_SECONDS)

    async def _batch(self, rule: _Rule, runs: Sequence[UUID]) -> tuple[int, int, list[Exception]]:
        """Return how many rows were found, how many of them put right, and what kept others from it."""
        async with self._store.database.transaction(snapshot=True) as tx:
            rows = await rule.find(tx, Look(runs, rule.bad.all_passed_over(), LARGEST_BATCH))
        answers, failed = await rule.bad.each(self._store, rows, rule.act)
        done = [row for answer in answers for row in answer]
        if done:
            _log.error("repaired", rule=rule.name, count=len(done), rows=[_named(row) for row in done])
            self._count(rule.name, len(done))
        return len(rows), len(done), list(failed.values())


def _named(row: UUID | _Job) -> str:
    """Return a step or a run by its id, a job by its own."""
    return str(row[1] if isinstance(row, tuple) else row)


async def _fail_unheld(tx: Tx, ledger: Ledger, step_ids: Sequence[UUID]) -> list[UUID]:
    await load_steps(tx, ledger, step_ids)
    return [one for one in step_ids if one in ledger.steps and ledger.fail_unheld(ledger.steps[one])]


async def _queue_again(tx: Tx, ledger: Ledger, step_ids: Sequence[UUID]) -> list[UUID]:
    await load_steps(tx, ledger, step_ids)
    unqueued = await invariants.still_unqueued(tx, step_ids)
    return [one for one in unqueued if ledger.queue_again(ledger.steps[one])]


async def _take_from_queue(tx: Tx, ledger: Ledger, step_ids: Sequence[UUID]) -> list[UUID]:
    await load_steps(tx, ledger, step_ids)
    gone = await invariants.take_from_queue(tx, step_ids)
    for step_id in gone:
        ledger.tell_repair(ledger.steps[step_id], "it was in the queue without waiting there")
    return gone


async def _let_time_go_on(tx: Tx, ledger: Ledger, step_ids: Sequence[UUID]) -> list[UUID]:
    await load_steps(tx, ledger, step_ids)
    noted = await invariants.let_time_go_on(tx, step_ids)
    for step_id in noted:
        ledger.tell_repair(ledger.steps[step_id], "the timeout of its job was not watched while it waited")
    return noted


async def _end_leases(tx: Tx, ledger: Ledger, step_ids: Sequence[UUID]) -> list[UUID]:
    await load_steps(tx, ledger, step_ids)
    ended = await invariants.end_leases(tx, step_ids)
    for step_id in ended:
        ledger.tell_repair(ledger.steps[step_id], "it had ended, and took a slot of its agent")
    return ended


async def _lose(tx: Tx, ledger: Ledger, step_ids: Sequence[UUID]) -> list[UUID]:
    await load_steps(tx, ledger, step_ids)
    steps = [ledger.steps[one] for one in step_ids if one in ledger.steps]
    left = await invariants.left_agents(tx, [step.lease.agent_id for step in steps if step.lease is not None])
    lost = [step for step in steps if step.lease is not None and step.lease.agent_id in left]
    for step in lost:
        ledger.tell_repair(step, "an agent held it that had left")
        ledger.lose(step, f"{REPAIRED}the agent of the step had left")
    return [step.id for step in lost]


async def _end_left_jobs(tx: Tx, ledger: Ledger, jobs: Sequence[_Job]) -> list[_Job]:
    return await _of_jobs(tx, ledger, jobs, ledger.end_left_job)


async def _end_stalled_jobs(tx: Tx, ledger: Ledger, jobs: Sequence[_Job]) -> list[_Job]:
    return await _of_jobs(tx, ledger, jobs, ledger.end_stalled_job)


async def _release_keys(tx: Tx, ledger: Ledger, jobs: Sequence[_Job]) -> list[_Job]:
    return await _of_jobs(tx, ledger, jobs, ledger.release_left_key)


async def _of_jobs(tx: Tx, ledger: Ledger, jobs: Sequence[_Job], repair: Callable[[JobState], bool]) -> list[_Job]:
    for run_id in sorted({run_id for run_id, _ in jobs}):
        await load_run(tx, ledger, run_id)
    return [job for job in jobs if job[1] in ledger.jobs and repair(ledger.jobs[job[1]])]


async def _end_stalled_runs(tx: Tx, ledger: Ledger, run_ids: Sequence[UUID]) -> list[UUID]:
    runs = [await load_run(tx, ledger, run_id) for run_id in run_ids]
    return [run.id for run in runs if run is not None and ledger.end_stalled_run(run)]
