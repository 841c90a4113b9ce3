"""The checker: the promises of reliability, each decided by what journals, database and clients say.

Used by everything that puts a server through faults: wait until all is quiet (`quiet`), then `check`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from arcentra_server.db.engine import Database
from arcentra_server.domain.errors import ArcentraError
from tests.support import promises_of_ingest, promises_of_runs, promises_of_steps
from tests.support.fault_evidence import Evidence, gather
from tests.support.fault_history import History

QUIET_SECONDS = 60.0  # in which nothing happens, though not everything has ended: a failure of its own
_MOST_STEPS = 10  # of so many seconds each: who goes round in circles does not come to an end either
_POLL_SECONDS = 0.2
_HAPPENED = (
    "SELECT (SELECT max(id) FROM events), (SELECT count(*) FROM agent_events), (SELECT sum(size) FROM step_logs)"
)

PROMISES: dict[str, Callable[[Evidence], Iterator[str]]] = {
    "P1": promises_of_runs.nothing_lost,
    "P2": promises_of_steps.one_outcome,
    "P3": promises_of_steps.one_lease,
    "P4": promises_of_steps.start_rule,
    "P5": promises_of_ingest.events_once,
    "P6": promises_of_ingest.whole_logs,
    "P7": promises_of_runs.keys_respected,
    "P8": promises_of_runs.gates_hold,
    "P9": promises_of_steps.legal_transitions,
    "P10": promises_of_runs.cancels_hold,
    "P11": promises_of_steps.order_in_job,
    "P12": promises_of_runs.derived_state,
    "P13": promises_of_steps.server_time,
    "P14": promises_of_runs.bounded,
}


def violations(seen: Evidence) -> list[str]:
    """Return everything that breaks a promise, each with the id of the promise."""
    return [f"{promise}: {fault}" for promise, check in PROMISES.items() for fault in check(seen)]


async def check(database: Database, journals: Path, history: History) -> Evidence:
    """Wait until all is quiet, and fail with every promise that is broken."""
    seen = await quiet(database, journals, history)
    found = violations(seen)
    assert not found, f"{len(found)} violations:\n" + "\n".join(found[:40])
    return seen


async def quiet(database: Database, journals: Path, history: History, *, within: float = QUIET_SECONDS) -> Evidence:
    """Return what there is to know once nothing is under way, or nothing has happened for so many seconds.

    In the second case the checks say what is under way.
    """
    loop = asyncio.get_running_loop()
    last, since = None, loop.time()
    try:
        async with asyncio.timeout(_MOST_STEPS * within):
            while loop.time() < since + within:
                await asyncio.sleep(_POLL_SECONDS)
                with suppress(ArcentraError):  # the database is coming back
                    if await _open_runs(database) == 0 and not under_way(
                        seen := await gather(database, journals, history)
                    ):
                        return seen
                    if (now := await happened(database)) != last:
                        last, since = now, loop.time()
    except TimeoutError:
        pass
    return await gather(database, journals, history)


async def happened(database: Database) -> object:
    """Return something that is another one whenever anything has happened since."""
    async with database.transaction() as tx:
        return await tx.fetchrow(_HAPPENED)


async def _open_runs(database: Database) -> int:
    async with database.transaction() as tx:
        return int(await tx.fetchval("SELECT count(*) FROM pipeline_runs WHERE finished_at IS NULL"))


def under_way(seen: Evidence) -> list[str]:
    """Return what is still to come: runs that go on, reports and events that agents have and the server has not."""
    runs = [f"run {row['id']}" for row in seen.rows["pipeline_runs"] if row["finished_at"] is None]
    settled = {line["lease"] for _, line in seen.lines("verdict") if line["status"] != "RUNNING"}
    ended = (line for _, line in seen.lines("end") if line["why"] != "refused")
    reports = [f"report on {line['step']}" for line in ended if line["lease"] not in settled]
    events = []
    for name in seen.journals:
        made, stored = seen.events_of(name)
        # What the agent takes for stored is not sent again.
        if len(made) > max(len(stored), seen.told.get(name, 0)):
            events.append(f"events of {name}")
    return runs + reports + events
