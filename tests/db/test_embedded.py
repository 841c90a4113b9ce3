import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from arcentra_server.db.embedded import (
    BinariesError,
    DataDirInUseError,
    DataDirUnusableError,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    LaunchError,
    NotRunningError,
    PreviousServerError,
    StartFailedError,
    VersionMismatchError,
    running_dsn,
)
from arcentra_server.db.embedded.binaries import find_binaries
from arcentra_server.db.embedded.dsn import build_dsn
from arcentra_server.db.embedded.launch import Launcher
from arcentra_server.db.embedded.logfile import ROTATE_BYTES, LogFile
from tests.support.postgres import REPOSITORY, chosen_bindir, connected, server_process, watched

NOBODY = 65534
ROOT = os.geteuid() == 0
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
# Root's files under another name: an ordinary user to PostgreSQL and to us, wherever the interpreter lies.
AS_RENAMED_ROOT = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")


def embedded(data_dir: Path, **seconds: float) -> EmbeddedPostgres:
    return EmbeddedPostgres(
        data_dir,
        bindir=chosen_bindir(),
        start_timeout=seconds.get("start", 120),
        takeover_timeout=seconds.get("takeover", 60),
    )


async def write_row(dsn: str) -> None:
    async with connected(dsn) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (n bigserial)")
        await connection.execute("INSERT INTO kept DEFAULT VALUES")


async def count_rows(dsn: str) -> int:
    async with connected(dsn) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM kept"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user may enter; pytest's own are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="arcentra-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def without_namespaces(open_dir: Path) -> tuple[str, ...]:
    """A prefix for a process whose user may make no namespaces, as in a locked-down container."""
    refusing = open_dir / "bin" / "unshare"
    refusing.parent.mkdir()
    refusing.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    return ("env", f"PATH={refusing.parent}:{os.environ['PATH']}")


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The id of a live process that has nothing to do with PostgreSQL."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


# --- starting and stopping


@pytest.mark.slow
async def test_a_cold_start_makes_a_private_durable_server(tmp_path: Path) -> None:
    parent = tmp_path / "closed"
    parent.mkdir(mode=0o700)
    data_dir = parent / "deeper" / "data"
    async with embedded(data_dir) as server, connected(server.dsn()) as connection:
        assert await connection.fetchval("SELECT current_database()") == "arcentra"
        assert await connection.fetchval("SHOW listen_addresses") == ""
        assert await connection.fetchval("SHOW fsync") == "on"
        assert await connection.fetchval("SHOW max_connections") == "60"
        assert await connection.fetchval("SHOW data_checksums") == "on"
        assert await connection.fetchval("SELECT bool_and(auth_method = 'scram-sha-256') FROM pg_hba_file_rules")
        assert mode(data_dir) == mode(data_dir / "pg") == mode(data_dir / "pg.run") == 0o700
        assert mode(data_dir / "pg.password") == 0o600
        assert mode(parent) == 0o700
        assert {path.stat().st_uid for path in data_dir.rglob("*")} == {os.geteuid()}
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.dsn(), password="wrong")
    assert not (data_dir / "pg.run").exists()
    assert not (data_dir / "pg" / "postmaster.pid").exists()


@pytest.mark.slow
async def test_a_warm_start_keeps_rows_and_password(tmp_path: Path) -> None:
    async with embedded(tmp_path) as server:
        dsn = server.dsn()
        await write_row(dsn)
    async with embedded(tmp_path) as server:
        assert server.dsn() == dsn
        assert await count_rows(dsn) == 1


@pytest.mark.slow
async def test_an_own_database_is_addressed_by_name(tmp_path: Path) -> None:
    async with embedded(tmp_path) as server:
        async with connected(server.dsn()) as connection:
            await connection.execute('CREATE DATABASE "o t/her"')
        async with connected(server.dsn("o t/her")) as connection:
            assert await connection.fetchval("SELECT current_database()") == "o t/her"


@pytest.mark.slow
async def test_a_server_that_is_not_started_has_no_address(tmp_path: Path) -> None:
    server = embedded(tmp_path)
    await server.stop()
    with pytest.raises(NotRunningError, match="not started"):
        server.dsn()
    async with server:
        with pytest.raises(EmbeddedPostgresError, match="already started"):
            await server.start()
        assert server.pid
    with pytest.raises(NotRunningError):
        _ = server.pid


@pytest.mark.slow
@pytest.mark.parametrize(("name", "temporaries"), [("d" * 120, 1), ("a,comma", 1), ('a "quote and a space%', 0)])
async def test_awkward_paths(name: str, temporaries: int, monkeypatch: pytest.MonkeyPatch, open_dir: Path) -> None:
    temporary = open_dir / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    async with embedded(open_dir / name) as server:
        await write_row(server.dsn())
        made = list(temporary.iterdir())
        assert len(made) == temporaries
        assert all(mode(directory) == 0o700 for directory in made)
    assert not list(temporary.iterdir())


@pytest.mark.slow
async def test_the_socket_directory_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    data_dir = tmp_path / ("d" * 120)
    async with server_process(data_dir) as child:
        left = (data_dir / "pg.run").readlink()
        with watched(child.postmaster) as ended:
            child.process.kill()
            await ended
    assert left.exists()
    async with embedded(data_dir):
        assert not left.exists()


# --- one server a data directory


@pytest.mark.slow
async def test_a_second_start_is_refused_and_names_the_holder(tmp_path: Path) -> None:
    async with embedded(tmp_path) as server:
        with pytest.raises(DataDirInUseError, match=f"{tmp_path} is in use by process {os.getpid()}") as caught:
            await embedded(tmp_path).start()
        assert caught.value.pid == os.getpid()
        async with server_process(tmp_path) as other:
            assert other.report["error"] == "DataDirInUseError"
            assert f"process {os.getpid()}" in str(other.report["message"])
        await write_row(server.dsn())


@pytest.mark.slow
async def test_the_address_of_a_server_that_another_process_runs(tmp_path: Path) -> None:
    assert running_dsn(tmp_path) is None
    async with server_process(tmp_path) as child:
        found = running_dsn(tmp_path)
        assert found == child.dsn
        await write_row(found)
        await child.stop()
        assert running_dsn(tmp_path) is None


@pytest.mark.slow
async def test_a_killed_server_has_no_address(tmp_path: Path) -> None:
    async with embedded(tmp_path) as server:
        os.kill(server.pid, signal.SIGKILL)
        await server.wait_exit()
        assert (tmp_path / "pg" / "postmaster.pid").exists()
        assert running_dsn(tmp_path) is None


# --- kills


@pytest.mark.slow
async def test_rows_survive_the_kill_of_the_postmaster(tmp_path: Path) -> None:
    async with embedded(tmp_path) as server:
        await write_row(server.dsn())
        os.kill(server.pid, signal.SIGKILL)
        assert await server.wait_exit() == -signal.SIGKILL
        await server.stop()
        await server.start()
        assert await count_rows(server.dsn()) == 1


@pytest.mark.slow
async def test_a_busy_worker_of_a_killed_postmaster_does_not_hinder_the_next_start(tmp_path: Path) -> None:
    async def be_busy(connection: asyncpg.Connection) -> None:
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await connection.execute("DO $$ BEGIN LOOP NULL; END LOOP; END $$")

    async with (
        embedded(tmp_path) as server,
        asyncio.TaskGroup() as group,
        connected(server.dsn()) as busy,
        connected(server.dsn()) as witness,
    ):
        worker = busy.get_server_pid()
        group.create_task(be_busy(busy))
        running = "SELECT state = 'active' FROM pg_stat_activity WHERE pid = $1 AND query LIKE 'DO %'"
        while not await witness.fetchval(running, worker):
            pass
        with watched(worker) as ended:
            os.kill(server.pid, signal.SIGKILL)
            await server.wait_exit()
            await server.stop()
            assert not ended.done()
            await server.start()
            await ended


@pytest.mark.slow
@pytest.mark.parametrize(
    "prefix", [(), ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")], ids=["plain", "SIGINT ignored"]
)
async def test_the_server_ends_with_its_killed_parent(tmp_path: Path, prefix: tuple[str, ...]) -> None:
    async with server_process(tmp_path, prefix=prefix) as child:
        await write_row(child.dsn)
        with watched(child.postmaster) as ended:
            child.process.kill()
            await ended
    async with embedded(tmp_path) as server:
        assert await count_rows(server.dsn()) == 1


@pytest.mark.slow
async def test_a_start_right_after_the_parent_was_killed_waits_for_its_server(tmp_path: Path) -> None:
    async with server_process(tmp_path) as child:
        await write_row(child.dsn)
        child.process.kill()
        await child.process.wait()
        async with embedded(tmp_path) as server:
            assert server.pid != child.postmaster
            assert await count_rows(server.dsn()) == 1


@pytest.mark.slow
async def test_a_previous_server_that_does_not_end_is_reported(tmp_path: Path) -> None:
    async with server_process(tmp_path) as child:
        with watched(child.postmaster) as ended:
            os.kill(child.postmaster, signal.SIGSTOP)
            child.process.kill()
            await child.process.wait()
            with pytest.raises(PreviousServerError, match=f"kill -INT .*{child.postmaster}") as caught:
                await embedded(tmp_path, takeover=0.2).start()
            assert child.postmaster in caught.value.pids
            os.kill(child.postmaster, signal.SIGCONT)
            await ended
    async with embedded(tmp_path):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
async def test_a_program_whose_parent_died_before_the_death_signal_was_armed_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    command = Launcher(os.geteuid(), os.getegid()).command(["touch", str(trace)], death_signal="INT")
    under_us = await asyncio.create_subprocess_exec(*command)
    assert await under_us.wait() == 0
    trace.unlink()
    under_another = await asyncio.create_subprocess_exec("sh", "-c", '"$@" & wait $!', "sh", *command)
    assert await under_another.wait() == 70
    assert not trace.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
async def test_the_death_signal_works_where_it_was_ignored() -> None:
    command = Launcher(os.geteuid(), os.getegid()).command(["sh", "-c", "kill -INT $$"], death_signal="INT")
    ignoring = await asyncio.create_subprocess_exec("sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command)
    assert await ignoring.wait() == -signal.SIGINT


@pytest.mark.slow
async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    for seconds in (0.0, 0.1, 0.3):
        with pytest.raises(StartFailedError, match="was not ready after"):
            await embedded(tmp_path, start=seconds).start()
        assert not (tmp_path / "pg" / "postmaster.pid").exists()
        assert not (tmp_path / "pg.run").exists()
    async with embedded(tmp_path) as server:
        await write_row(server.dsn())


# --- users


@pytest.mark.slow
async def test_an_ordinary_user_runs_it(open_dir: Path) -> None:
    prefix: tuple[str, ...] = ()
    owner = os.geteuid()
    if ROOT:
        imports = [sys.executable, "-c", "import asyncpg, arcentra_server.db.embedded"]
        reachable = subprocess.run([*AS_NOBODY, *imports], cwd=REPOSITORY, check=False).returncode == 0
        prefix = AS_NOBODY if reachable else AS_RENAMED_ROOT
        owner = NOBODY if reachable else 0
    os.chown(open_dir, owner, owner if ROOT else -1)
    async with server_process(open_dir / "data", prefix=prefix) as child:
        assert "dsn" in child.report, child.report
        await write_row(child.dsn)
        await child.stop()
    assert {path.stat().st_uid for path in (open_dir / "data").rglob("*")} == {owner}
    # Whoever made it: root runs it as its owner and takes nothing from him.
    async with embedded(open_dir / "data") as server:
        assert await count_rows(server.dsn()) == 1
        assert {path.stat().st_uid for path in (open_dir / "data" / "pg").rglob("*")} == {owner}


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="only root has a user to drop")
async def test_root_without_user_namespaces_drops_to_an_unprivileged_user(
    open_dir: Path, without_namespaces: tuple[str, ...]
) -> None:
    data_dir = open_dir / "data"
    async with embedded(data_dir) as server:
        await write_row(server.dsn())
    assert (data_dir / "pg").stat().st_uid == 0
    async with server_process(data_dir, prefix=without_namespaces) as child:
        assert "dsn" in child.report, child.report
        assert Path(f"/proc/{child.postmaster}").stat().st_uid == NOBODY
        assert await count_rows(child.dsn) == 1
        with watched(child.postmaster) as ended:
            child.process.kill()
            await ended
    assert {path.stat().st_uid for path in (data_dir / "pg").rglob("*")} == {NOBODY}
    async with server_process(open_dir / "other", prefix=without_namespaces) as child:
        assert "dsn" in child.report, child.report


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="only root has a user to drop")
async def test_a_directory_closed_to_the_unprivileged_user_is_named_and_left_alone(
    open_dir: Path, without_namespaces: tuple[str, ...]
) -> None:
    closed = open_dir / "closed"
    closed.mkdir(mode=0o700)
    async with server_process(closed / "data", prefix=without_namespaces) as child:
        assert child.report["error"] == "LaunchError"
        assert f"the user {NOBODY} that would run it cannot reach {closed / 'data'}" in str(child.report["message"])
    assert mode(closed) == 0o700


# --- damage


@pytest.mark.slow
async def test_a_half_made_cluster_is_ignored(tmp_path: Path) -> None:
    half = tmp_path / "pg.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("3\n")
    (tmp_path / "pg.password").write_text("unfinished")
    async with embedded(tmp_path) as server:
        await write_row(server.dsn())
        assert ":unfinished@" not in server.dsn()
    assert not half.exists()


@pytest.mark.slow
@pytest.mark.parametrize("line", ["{pid}\n{cluster}\n", "{pid}\n", "", "not a number\n"])
async def test_a_stale_pid_file_is_not_believed(tmp_path: Path, sleeper: int, line: str) -> None:
    async with embedded(tmp_path) as server:
        await write_row(server.dsn())
    cluster = tmp_path / "pg"
    (cluster / "postmaster.pid").write_text(line.format(pid=sleeper, cluster=cluster))
    assert running_dsn(tmp_path) is None
    async with embedded(tmp_path) as server:
        assert await count_rows(server.dsn()) == 1


@pytest.mark.slow
async def test_a_process_that_merely_stands_in_the_cluster_is_left_alone(tmp_path: Path) -> None:
    async with embedded(tmp_path) as server:
        await write_row(server.dsn())
    visitor = await asyncio.create_subprocess_exec("cat", cwd=tmp_path / "pg", stdin=subprocess.PIPE)
    async with embedded(tmp_path, takeover=5) as server:
        assert await count_rows(server.dsn()) == 1
    await visitor.communicate(b"")
    assert visitor.returncode == 0


@pytest.mark.slow
async def test_a_failed_start_shows_the_log(tmp_path: Path) -> None:
    async with embedded(tmp_path):
        pass
    with (tmp_path / "pg" / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(StartFailedError, match=r"(?s)ended with code 1;.*pg\.log.*no_such_setting"):
        await embedded(tmp_path).start()


async def test_another_version_is_refused(tmp_path: Path) -> None:
    cluster = tmp_path / "pg"
    cluster.mkdir()
    (cluster / "PG_VERSION").write_text("12\n")
    with pytest.raises(VersionMismatchError, match=rf"{cluster} was made by PostgreSQL 12.*set ARCENTRA_PG_BINDIR"):
        await embedded(tmp_path).start()
    (cluster / "PG_VERSION").unlink()
    with pytest.raises(DataDirUnusableError, match="is not a PostgreSQL cluster"):
        await embedded(tmp_path).start()


@pytest.mark.slow
async def test_a_lost_password_is_reported(tmp_path: Path) -> None:
    async with embedded(tmp_path):
        pass
    (tmp_path / "pg.password").unlink()
    with pytest.raises(DataDirUnusableError, match=r"pg\.password.*restore it"):
        await embedded(tmp_path).start()


async def test_a_data_dir_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataDirUnusableError, match="cannot use the data directory"):
        await embedded(tmp_path / "file").start()


# --- parts


async def test_programs_are_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCENTRA_PG_BINDIR", str(tmp_path))
    with pytest.raises(BinariesError, match=f"{tmp_path}/postgres is missing"):
        await find_binaries()
    for program in ("postgres", "initdb"):
        (tmp_path / program).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 14.2'\n")
        (tmp_path / program).chmod(0o755)
    with pytest.raises(BinariesError, match="is PostgreSQL 14; 15 or newer is needed"):
        await find_binaries()


async def test_it_must_be_started_from_the_main_thread(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="main thread"):
        await asyncio.to_thread(lambda: asyncio.run(embedded(tmp_path).start()))


def test_an_address_quotes_what_it_holds() -> None:
    assert (
        build_dsn("p@s/%", "/a b/c&d", "n?x") == "postgresql://arcentra:p%40s%2F%25@/n%3Fx?host=/a%20b/c%26d&port=5432"
    )


def test_a_big_log_is_set_aside(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "pg.log")
    for text in (b"x" * ROTATE_BYTES, b"y", b"second"):
        fd = log.open()
        os.write(fd, text)
        os.close(fd)
    assert log.tail() == "second"
    assert (tmp_path / "pg.log").read_bytes() == b"second"
    assert (tmp_path / "pg.log.1").stat().st_size == ROTATE_BYTES + 1
