"""Compare a database made by the migrations with one made from the tables of `arcentra_server.db.tables`.

Both are asked what they hold: columns with types and defaults, constraints with their whole definition, indexes with
their order and condition, storage options. That sees more than alembic's own comparison, which passes over CHECKs and
the conditions of indexes. Exits 1 and names each difference.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import structlog
from sqlalchemy import MetaData

from arcentra_server.db.embedded import EmbeddedPostgres
from arcentra_server.db.migrate import async_engine, upgrade
from arcentra_server.db.tables import metadata

Schema = dict[str, str]

# Every row: the name of a part, and its definition as PostgreSQL itself writes it.
DESCRIBE = """
WITH tables AS (
    SELECT oid, relname, reloptions FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'alembic_version'
)
SELECT 'table ' || relname, coalesce(array_to_string(reloptions, ', '), '') FROM tables
UNION ALL
SELECT 'column ' || relname || '.' || attname,
       concat_ws(' ', format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'NOT NULL' END,
                 'DEFAULT ' || pg_get_expr(adbin, adrelid), 'IDENTITY ' || nullif(attidentity::text, ''))
FROM tables JOIN pg_attribute ON attrelid = tables.oid
     LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'constraint ' || relname || '.' || conname, pg_get_constraintdef(pg_constraint.oid)
FROM tables JOIN pg_constraint ON conrelid = tables.oid
WHERE contype <> 'n'
UNION ALL
SELECT 'index ' || indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
"""


async def describe(dsn: str) -> Schema:
    connection = await asyncpg.connect(dsn)
    try:
        return {str(name): str(definition) for name, definition in await connection.fetch(DESCRIBE)}
    finally:
        await connection.close()


async def create(dsn: str, tables: MetaData) -> None:
    engine = async_engine(dsn)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(tables.create_all)
    finally:
        await engine.dispose()


def differences(migrated: Schema, declared: Schema) -> Iterator[str]:
    for part in sorted(migrated.keys() | declared.keys()):
        ours, theirs = migrated.get(part), declared.get(part)
        if ours is None:
            yield f"{part}: no migration makes it"
        elif theirs is None:
            yield f"{part}: the migrations make it, the tables do not have it"
        elif ours != theirs:
            yield f"{part}: by the migrations: {ours}\n{part}: by the tables:     {theirs}"


async def compare(server: EmbeddedPostgres, tables: MetaData) -> list[str]:
    """Return the differences between the migrations and `tables`, on two new databases of `server`."""
    admin = await asyncpg.connect(server.dsn())
    try:
        for name in ("migrated", "declared"):
            await admin.execute(f"CREATE DATABASE {name}")
    finally:
        await admin.close()
    await upgrade(server.dsn("migrated"))
    await create(server.dsn("declared"), tables)
    return list(differences(await describe(server.dsn("migrated")), await describe(server.dsn("declared"))))


async def main() -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as scratch:
        async with EmbeddedPostgres(Path(scratch)) as server:
            found = await compare(server, metadata)
    print(*found, sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
