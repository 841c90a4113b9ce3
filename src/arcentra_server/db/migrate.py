"""Bring a database to the schema of this version, by the migrations that come with it."""

from __future__ import annotations

from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from arcentra_server.crashpoint import crashpoint

# Held while migrations run, so that servers that start together do not run them twice.
_ADVISORY_LOCK = 0x617263656E747261 & 0x7FFF_FFFF_FFFF_FFFF
OLDEST_POSTGRESQL = 15


class MigrationError(Exception):
    """The database cannot be brought to the schema of this version."""


def migrations_dir() -> Path:
    """Return the folder of the migrations: inside the installed package, or beside it in a source tree."""
    packed = Path(__file__).resolve().parents[1] / "migrations"
    return packed if packed.is_dir() else Path(__file__).resolve().parents[3] / "migrations"


async def upgrade(dsn: str) -> list[str]:
    """Run what is missing and return the revisions that were run, oldest first.

    Raises:
        MigrationError: the database is older than PostgreSQL 15, or was written by a newer version of this program.
    """
    engine = async_engine(dsn)
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            await connection.commit()
            return await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


async def current(dsn: str) -> str | None:
    """Return the revision that a database is at, None for an empty one."""
    engine = async_engine(dsn)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_current)
    finally:
        await engine.dispose()


def head() -> str:
    """Return the revision of this version."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise MigrationError(f"no migrations in {migrations_dir()}")
    return revision


def async_engine(dsn: str) -> AsyncEngine:
    """Return an SQLAlchemy engine for migrations and schema comparison; queries go through `db/engine.py`."""
    return create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()))
    config.set_main_option("path_separator", "os")
    return config


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _upgrade(connection: Connection) -> list[str]:
    version = connection.execute(text("SHOW server_version_num")).scalar_one()
    if int(version) // 10_000 < OLDEST_POSTGRESQL:
        raise MigrationError(
            f"the database is PostgreSQL {int(version) // 10_000}; {OLDEST_POSTGRESQL} or later is needed"
        )
    config = _config()
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    before = _current(connection)
    if before is not None and before not in known:
        raise MigrationError(
            f"the database is at revision {before}, which this version does not know: it was written by a newer version"
        )
    pending = [script.revision for script in scripts.iterate_revisions("head", before or "base")]
    connection.commit()
    if pending:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        crashpoint("migrate.before_commit")
        connection.commit()
        crashpoint("migrate.after_commit")
    return pending[::-1]
