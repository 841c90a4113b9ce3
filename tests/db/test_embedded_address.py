"""The address of an embedded server that is brought back, where the path of its data directory is too long for a socket."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from arcentra_server.db.embedded import EmbeddedPostgres
from tests.support.postgres import chosen_bindir, connected

pytestmark = pytest.mark.slow
LONG = "d" * 120


async def answers(server: EmbeddedPostgres) -> bool:
    async with connected(server.dsn()) as connection:
        return bool(await connection.fetchval("SELECT true"))


async def test_a_server_that_is_brought_back_has_its_address(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / LONG, bindir=chosen_bindir()) as server:
        before = server.dsn()
        os.kill(server.pid, signal.SIGQUIT)
        await server.wait_exit()
        await server.stop()
        await server.start()
        assert server.dsn() == before
        assert await answers(server)


async def test_an_address_that_somebody_took_is_left_to_them(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o777)
    async with EmbeddedPostgres(tmp_path / LONG, bindir=chosen_bindir()) as server:
        taken = (tmp_path / LONG / "pg.run").readlink()
        await server.stop()
        taken.symlink_to(theirs)
        try:
            await server.start()
            assert await answers(server)
            assert (tmp_path / LONG / "pg.run").readlink() != taken
        finally:
            taken.unlink()
