"""What is known when all is quiet: the rows of one snapshot, the journals of the agents, the history of the clients."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from arcentra_server.db.engine import Database, Tx
from tests.support.consistency import check_consistent
from tests.support.fault_history import History
from tests.support.simagent.journal import Line, boot_time, read_lines

_COLUMNS = {
    "pipeline_runs": "*",
    "run_stages": "*",
    "job_runs": "*",
    "job_needs": "*",
    "step_runs": """id, run_id, job_run_id, name, step_index, attempt, superseded, status, agent_id, own_selector,
                    failure_reason, cancel_cause, cancel_requested_at, log_size, created_at, started_at, finished_at""",
    "step_queue": "*",
    "leases": "*",
    "concurrency_claims": "*",
    "approvals": "*",
    "approval_votes": "*",
    "agents": "*",
    "agent_events": "agent_id, seq, event_id",
    "step_logs": "*",
    "log_chunks": "*",
    "selectors": "*",
}
_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'arcentra-server'"


@dataclass(frozen=True, slots=True)
class Process:
    """The life of the process of one step, in seconds of CLOCK_BOOTTIME."""

    step: str
    job: str
    index: int
    lease: str
    begun: float
    ended: float


@dataclass
class Evidence:
    """See the module. `inconsistent`: what `consistency.py` says of the snapshot.

    `told`: up to which of its events each agent had been told, before the snapshot, that they are stored.
    `now`: the time of the snapshot, `booted`: that at which CLOCK_BOOTTIME was 0, both in Unix seconds.
    """

    rows: dict[str, list[dict[str, Any]]]
    events: list[dict[str, Any]]
    inconsistent: list[str]
    connections: int
    now: float
    booted: float
    journals: dict[str, list[Line]]
    processes: list[Process]
    history: History
    told: dict[str, int] = field(default_factory=dict)
    by_id: dict[str, dict[Any, dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for table in ("pipeline_runs", "job_runs", "step_runs", "agents"):
            self.by_id[table] = {row["id"]: row for row in self.rows[table]}

    def lines(self, kind: str) -> Iterable[tuple[str, Line]]:
        """Yield the lines of a kind, with the name of their agent."""
        return ((name, line) for name, lines in self.journals.items() for line in lines if line["kind"] == kind)

    def events_of(self, name: str) -> tuple[dict[int, str], dict[int, str]]:
        """Return the events of an agent by seq, as it made them and as they are stored."""
        lines = self.journals[name]
        agents = [line["agent"] for line in lines if line["kind"] == "boot"]
        made = {line["seq"]: line["event_id"] for line in lines if line["kind"] == "event"}
        rows = (row for row in self.rows["agent_events"] if agents and row["agent_id"] == UUID(agents[0]))
        return made, {row["seq"]: row["event_id"] for row in rows}

    def leases_of(self) -> dict[Any, list[dict[str, Any]]]:
        """Return the leases by step run, the oldest first."""
        return grouped(sorted(self.rows["leases"], key=lambda row: row["created_at"]), "step_run_id")


def grouped(rows: Iterable[dict[str, Any]], key: str) -> dict[Any, list[dict[str, Any]]]:
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return groups


async def gather(database: Database, journals: Path, history: History) -> Evidence:
    """Read everything. `journals`: the folder of the agents' journals; what was killed is noted there by `note_death`."""
    told = {path.stem: _told(read_lines(path)) for path in journals.glob("*.jsonl")}
    async with database.transaction(snapshot=True) as tx:
        rows = {name: await _rows(tx, f"SELECT {columns} FROM {name}") for name, columns in _COLUMNS.items()}  # noqa: S608
        events = await _rows(tx, "SELECT * FROM events ORDER BY id")
        now = float(await tx.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
        connections = int(await tx.fetchval(_CONNECTIONS))
        inconsistent = await _inconsistent(tx)
    booted = time.time() - boot_time()
    read = {path.stem: list(read_lines(path)) for path in sorted(journals.glob("*.jsonl"))}
    return Evidence(rows, events, inconsistent, connections, now, booted, read, processes_of(read), history, told)


def _told(lines: Iterable[Line]) -> int:
    return max((line["seq"] for line in lines if line["kind"] == "stored"), default=0)


async def _rows(tx: Tx, query: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await tx.fetch(query)]


async def _inconsistent(tx: Tx) -> list[str]:
    try:
        await check_consistent(tx)
    except AssertionError as error:
        return str(error).split("\n")
    return []


def processes_of(journals: dict[str, list[Line]]) -> list[Process]:
    """Return the lives of all processes. One whose agent was killed died with it, or had ended before."""
    found = []
    for lines in journals.values():
        ends = {line["lease"]: line["at"] for line in lines if line["kind"] == "end"}
        deaths = [line["at"] for line in lines if line["kind"] == "died"]
        for line in lines:
            if line["kind"] == "start":
                begun = line["at"]
                last = min([line["until"], *(at for at in deaths if at > begun)])
                ended = ends.get(line["lease"], last)
                found.append(Process(line["step"], line["job"], line["index"], line["lease"], begun, ended))
    return found
