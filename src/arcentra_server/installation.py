"""One installation: its data directory, its database, its secret keys. What the server and its commands share."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import structlog

from arcentra_server.config import Config
from arcentra_server.db import tokens
from arcentra_server.db.embedded import EmbeddedPostgres
from arcentra_server.db.engine import Database
from arcentra_server.domain.lease_tokens import LeaseTokens
from arcentra_server.domain.secret_box import KeyRing, make_key_line, parse_keys
from arcentra_server.domain.token_maker import TokenMaker

ADMIN_TOKEN_FILE = "admin.token"  # noqa: S105 - the name of a file
SECRETS_KEY_FILE = "secrets.key"
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


def load_key_ring(config: Config) -> KeyRing:
    """Return the keys that secrets are sealed with; those of the data directory are made at the first start.

    Raises:
        InstallationError: the file cannot be read, others can read it too, or it does not hold keys.
    """
    path = config.secrets.key_file
    if path is None:
        path = config.data_dir / SECRETS_KEY_FILE
        if not path.exists():
            _write_once(path, make_key_line(os.urandom))
    try:
        return KeyRing(parse_keys(_read_private(path)))
    except ValueError as error:
        raise InstallationError(f"{path} does not hold the keys of secrets: {error}") from None
    except OSError as error:
        hint = "" if config.secrets.key_file is None else " (secrets.key_file; see docs/secrets.md for how to make one)"
        raise InstallationError(f"cannot read {path}: {error.strerror}{hint}") from error


def _read_private(path: Path) -> str:
    with path.open(encoding="ascii") as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.geteuid():
            raise InstallationError(f"{path} belongs to another user: it must belong to the one the server runs as")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise InstallationError(f"{path} can be read or changed by others: `chmod 600` it")
        return file.read()


def _write_once(path: Path, text: str) -> None:
    """Write a private file unless there is one by then: of several servers that start together, one makes it."""
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    write_private(scratch, text)
    try:
        with suppress(FileExistsError):
            path.hardlink_to(scratch)
    finally:
        scratch.unlink()
    _sync_names(path.parent)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    scratch = path.with_name(path.name + ".new")
    with open(scratch, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)
    _sync_names(path.parent)


def _sync_names(path: Path) -> None:
    """Bring the names of a folder to the disk, or a power cut may leave one without its file."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
