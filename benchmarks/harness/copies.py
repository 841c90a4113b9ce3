"""Copies of a run, made by SQL: what a server has gathered in a year, within a minute.

The run that is copied went through the API, so that its rows are as the server writes them. Each copy has ids of its own,
older than those of every real run and in the order of time, also within the dispatches; nothing else differs.
"""

from collections.abc import Mapping

import asyncpg

from benchmarks.harness.subjects import Subject

# The tables that a run has rows in, those that are referred to first: the ids of the run in each, and how its rows are
# found.
IDS = {
    "pipeline_runs": ("id",),
    "run_stages": ("run_id",),
    "job_runs": ("id", "run_id"),
    "step_runs": ("id", "run_id", "job_run_id"),
    "step_queue": ("step_run_id", "run_id"),
    "leases": ("id", "step_run_id"),
    "events": ("run_id", "job_run_id", "step_run_id"),
}
OF_RUN = {"pipeline_runs": "id = $3", "leases": "step_run_id IN (SELECT id FROM step_runs WHERE run_id = $3)"}
COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = $1 AND is_generated = 'NEVER' ORDER BY ordinal_position
"""
# Below all that the server has read: it would tell the followers of runs about each event otherwise.
EVENT_ID = "(SELECT min(id) FROM events) - row_number() OVER (ORDER BY copy.n DESC, id DESC)"


def copied(column: str) -> str:
    """An id of a copy: the first half of its time, which is of 2024 or later, becomes the number of the copy."""
    return f"(lpad(to_hex(copy.n), 8, '0') || substr({column}::text, 9))::uuid"


def as_hex(text: str) -> str:
    """The bytes of a text, as hexadecimal digits."""
    return f"encode(convert_to(({text})::text, 'UTF8'), 'hex')"


def with_copied_ids(column: str) -> str:
    """A serialised dispatch of a copy: the ids within, which keep their length, are those of the copy."""
    digits = f"encode({column}, 'hex')"
    for name in IDS["step_runs"]:
        digits = f"replace({digits}, {as_hex(name)}, {as_hex(copied(name))})"
    return f"decode({digits}, 'hex')"


def values_of(table: str) -> Mapping[str, str]:
    """The columns of a copy that differ, as SQL over the row that is copied."""
    values = {name: copied(name) for name in IDS[table]}
    if table == "step_runs":
        values["dispatch"] = with_copied_ids("dispatch")
    elif table == "step_queue":  # in the queue, the runs of a pipeline stand one after the other
        values["share"] = "share + (copy.n - $1 + 1) * (SELECT count(*) FROM step_queue WHERE run_id = $3)"
    elif table == "events":
        values["id"] = EVENT_ID
    return values


async def copy_run(subject: Subject, pipeline_id: str, first: int, copies: int) -> None:
    """Copy the only run of a pipeline `copies` times. `first`: the number of the first copy, above that of any other."""
    connection = await asyncpg.connect(subject.dsn)
    try:
        run_id = await connection.fetchval("SELECT id FROM pipeline_runs WHERE pipeline_id = $1", pipeline_id)
        # What the rows refer to is copied with them: it need not be looked up for each.
        await connection.execute("SET session_replication_role = replica")
        async with connection.transaction():
            for table in IDS:
                await _copy_rows(connection, table, (first, first + copies - 1, run_id))
    finally:
        await connection.close()


async def _copy_rows(
    connection: "asyncpg.Connection[asyncpg.Record]", table: str, arguments: tuple[object, ...]
) -> None:
    names = [row["column_name"] for row in await connection.fetch(COLUMNS, table)]
    differing = values_of(table)
    values = ", ".join(differing.get(name, name) for name in names)
    await connection.execute(
        f"""INSERT INTO {table} ({", ".join(names)}) OVERRIDING SYSTEM VALUE
            SELECT {values} FROM {table}, generate_series($1::int, $2::int) AS copy(n)
             WHERE {OF_RUN.get(table, "run_id = $3")} ORDER BY copy.n""",  # noqa: S608 - names of tables and columns
        *arguments,
    )


async def tidy(subject: Subject) -> None:
    """Do now what PostgreSQL would do soon after so many rows, so that it does not while the server is measured."""
    connection = await asyncpg.connect(subject.dsn)
    try:
        await connection.execute("VACUUM (ANALYZE)")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
