"""Making a database cluster, and checking one that is there."""

import asyncio
import os
import secrets
import shutil

from arcentra_server.db.embedded.binaries import BINDIR_VARIABLE, Binaries
from arcentra_server.db.embedded.errors import DataDirUnusableError, StartFailedError, VersionMismatchError
from arcentra_server.db.embedded.launch import Launcher, run
from arcentra_server.db.embedded.layout import USER, Layout


async def ensure_cluster(layout: Layout, binaries: Binaries, launcher: Launcher) -> None:
    """Make the cluster if there is none; check it if there is. The lock of the data directory must be held.

    Raises:
        VersionMismatchError: another major version made it.
        DataDirUnusableError: it has lost its version or password file.
        StartFailedError: initdb failed.
    """
    if layout.cluster.exists():
        _check_cluster(layout, binaries)
        await asyncio.to_thread(launcher.own, layout.cluster)
    else:
        await _make_cluster(layout, binaries, launcher)


def read_password(layout: Layout) -> str:
    """The password of the only role.

    Raises:
        DataDirUnusableError: the file is missing or closed to us.
    """
    try:
        return layout.password_file.read_text()
    except OSError as error:
        raise DataDirUnusableError(
            f"cannot read the database password in {layout.password_file}: {error}. "
            "Run this as the user of the server; if the file is lost, restore it from a backup of the data directory"
        ) from error


def _check_cluster(layout: Layout, binaries: Binaries) -> None:
    version_file = layout.cluster / "PG_VERSION"
    try:
        major = int(version_file.read_text())
    except (OSError, ValueError) as error:
        raise DataDirUnusableError(
            f"{layout.cluster} is not a PostgreSQL cluster ({version_file}: {error}): "
            "restore it from a backup, or move it away to begin with an empty database"
        ) from error
    if major != binaries.major:
        raise VersionMismatchError(
            f"the database in {layout.cluster} was made by PostgreSQL {major}, but {binaries.bindir} holds "
            f"{binaries.major}: set {BINDIR_VARIABLE} to the programs of PostgreSQL {major}, "
            f"or dump the database with those and restore it into a new data directory"
        )
    read_password(layout)


async def _make_cluster(layout: Layout, binaries: Binaries, launcher: Launcher) -> None:
    """Make it beside its place and rename it when it is whole, so that a half-made one is never used."""
    unfinished = layout.unfinished_cluster
    await asyncio.to_thread(_clear, layout)
    _write_password(layout, launcher)
    unfinished.mkdir(mode=0o700)
    launcher.own(unfinished)
    initdb = [
        str(binaries.initdb),
        f"--pgdata={unfinished}",
        f"--username={USER}",
        f"--pwfile={layout.password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--data-checksums",
    ]
    code, output = await run(launcher.command(initdb, death_signal="KILL"))
    if code != 0:
        raise StartFailedError(f"initdb could not make a database in {layout.root} (exit code {code}):\n{output}")
    unfinished.rename(layout.cluster)
    _sync(layout)


def _clear(layout: Layout) -> None:
    if layout.unfinished_cluster.exists():
        shutil.rmtree(layout.unfinished_cluster)
    layout.password_file.unlink(missing_ok=True)


def _write_password(layout: Layout, launcher: Launcher) -> None:
    fd = os.open(layout.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(secrets.token_urlsafe(24))
        file.flush()
        os.fsync(fd)
    launcher.own(layout.password_file)


def _sync(layout: Layout) -> None:
    """Make the new names durable; initdb has done so for what is below them."""
    fd = os.open(layout.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
