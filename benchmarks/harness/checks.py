"""Checks after every run: a fast server that lost, repeated or forgot something has no figure."""

import asyncpg

from benchmarks.harness.subjects import Subject

EVENTS_A_STEP = 3
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}

# One that has not ended, because no agent matches it, has fewer; how many have ended is counted beside it.
FEWEST_EVENTS = """
SELECT coalesce(min(n), 0) FROM (
    SELECT count(e.step_run_id) AS n
    FROM step_runs s LEFT JOIN events e ON e.step_run_id = s.id
    WHERE {succeeded} GROUP BY s.id
) counted
"""


async def check_database(subject: Subject, steps: int) -> list[str]:
    """Faults in what the database holds once `steps` step runs have had to succeed; none when all is well."""
    connection = await asyncpg.connect(subject.dsn)
    try:
        faults = [
            f"PostgreSQL runs with {name} = {value}"
            for name, expected in DURABLE.items()
            if (value := await connection.fetchval("SELECT current_setting($1)", name)) != expected
        ]
        done = await connection.fetchval(f"SELECT count(*) FROM step_runs WHERE {subject.succeeded}")  # noqa: S608 - a constant of this package
        if done != steps:
            faults.append(f"{steps} step runs have to succeed, {done} SUCCESS in the database")
        fewest = await connection.fetchval(FEWEST_EVENTS.format(succeeded=f"s.{subject.succeeded}"))
        if fewest < EVENTS_A_STEP:
            faults.append(f"a step run with {fewest} events; each has at least {EVENTS_A_STEP}")
        return faults
    finally:
        await connection.close()


def check_load(figures: dict[str, float], steps: int) -> list[str]:
    """Faults the fake agents saw."""
    faults = [
        f"{figures[name]:.0f} {what}"
        for name, what in (
            ("duplicates", "step runs dispatched twice"),
            ("refused", "reports refused"),
            ("cancelled", "cancels nobody asked for"),
        )
        if figures[name]
    ]
    if figures["done"] != steps:
        faults.append(f"{steps} step runs triggered, {figures['done']:.0f} acknowledged")
    return faults
