"""One installation: its data directory, its database, its secret keys. What the server and its commands share."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import structlog

from arcentra_server.config import Config
from arcentra_server.db import tokens
from arcentra_server.db.embedded import EmbeddedPostgres
from arcentra_server.db.engine import Database
from arcentra_server.domain.lease_tokens import LeaseTokens
from arcentra_server.domain.token_maker import TokenMaker

ADMIN_TOKEN_FILE = "admin.token"  # noqa: S105 - the name of a file
_log = structlog.get_logger()


class InstallationError(Exception):
    """The installation cannot be used as it is; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The secret keys of an installation."""

    tokens: TokenMaker
    leases: LeaseTokens


@asynccontextmanager
async def database_url(config: Config) -> AsyncIterator[tuple[str, EmbeddedPostgres | None]]:
    """Yield the address of the database, started if it is the embedded one, at the schema of this version."""
    async with AsyncExitStack() as stack:
        embedded = None
        if config.database.url is not None:
            dsn = config.database.url.get_secret_value()
        else:
            embedded = await stack.enter_async_context(EmbeddedPostgres(config.data_dir))
            dsn = embedded.dsn()
        await migrate(dsn)
        yield dsn, embedded


async def migrate(dsn: str) -> list[str]:
    """Bring a database to the schema of this version; return the revisions that were run.

    Raises:
        InstallationError: the database is too old, written by a newer version, or not reachable.
    """
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 - it costs a second to import, as alembic does

    from arcentra_server.db.migrate import MigrationError, upgrade  # noqa: PLC0415 - see above

    try:
        revisions = await upgrade(dsn)
    except MigrationError as error:
        raise InstallationError(str(error)) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, SQLAlchemyError) as error:
        # The driver's own words name the host and the user, and never the password.
        raise InstallationError(f"cannot use the database: {getattr(error, 'orig', None) or error}") from error
    for revision in revisions:
        _log.info("migrated", revision=revision)
    return revisions


async def load_keys(database: Database) -> Keys:
    """Return the keys of the installation, made at its first start."""
    async with database.transaction() as tx:
        token_key = await tokens.server_key(tx, "tokens", secrets.token_bytes(32))
        lease_key = await tokens.server_key(tx, "leases", secrets.token_bytes(32))
    return Keys(TokenMaker(token_key, os.urandom), LeaseTokens(lease_key))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    scratch = path.with_name(path.name + ".new")
    with open(scratch, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or a power cut may leave the name without its file
    finally:
        os.close(folder)
