"""Logs: cut into chunks that never change, copied from a pipe into a file without loss."""

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_agent.logs.cursor import Chunk, LogCursor
from arcentra_agent.logs.journal import CursorJournal
from arcentra_agent.logs.log_file import LogFile
from arcentra_agent.logs.spool import Spool, is_disk_full
from arcentra_agent.secret_values import SecretValues


def test_a_log_is_cut_without_hole_or_overlap() -> None:
    cursor = LogCursor(chunk_bytes=10)
    assert cursor.next_chunks(25, 10) == [Chunk(1, 0, 10), Chunk(2, 10, 10), Chunk(3, 20, 5)]
    assert cursor.next_chunks(40, 2) == [Chunk(1, 0, 10), Chunk(2, 10, 10)]
    cursor.store(2)
    assert cursor.stored_bytes == 20
    assert cursor.next_chunks(40, 2) == [Chunk(3, 20, 5), Chunk(4, 25, 10)]


def test_an_empty_log_needs_no_batch() -> None:
    cursor = LogCursor()
    assert cursor.next_chunks(0, 10) == []
    assert cursor.is_settled(0)


@pytest.mark.parametrize(
    ("refused", "stored", "given_up"),
    [
        ({}, 30, ""),
        ({2: "DUPLICATE_SEQ"}, 30, ""),
        ({2: "OUT_OF_ORDER", 3: "OUT_OF_ORDER"}, 10, ""),
        ({1: "OUT_OF_ORDER"}, 0, ""),
        ({2: "LIMIT_REACHED", 3: "LIMIT_REACHED"}, 10, "LIMIT_REACHED"),
        ({1: "NOT_LEASED"}, 0, "NOT_LEASED"),
    ],
)
def test_what_the_server_answers(refused: dict[int, str], stored: int, given_up: str) -> None:
    cursor = LogCursor(chunk_bytes=10)
    cursor.settle(cursor.next_chunks(30, 3), refused)
    assert (cursor.stored_bytes, cursor.given_up) == (stored, given_up)
    assert cursor.is_settled(30) == (stored == 30 or bool(given_up))


def test_a_server_that_lost_what_it_had_gets_everything_again() -> None:
    cursor = LogCursor(chunk_bytes=10)
    cursor.settle(cursor.next_chunks(20, 2), {})
    cursor.settle(cursor.next_chunks(30, 2), {3: "OUT_OF_ORDER"})
    assert cursor.next_chunks(30, 5) == [Chunk(1, 0, 10), Chunk(2, 10, 10), Chunk(3, 20, 10)]


@given(st.data())
def test_resending_what_is_not_acknowledged_reaches_the_source(data: st.DataObject) -> None:
    """Whatever grows, is lost or is answered late: the server's copy ends equal, with identical repetitions only."""
    source = data.draw(st.binary(max_size=60))
    cursor, server, seen = LogCursor(chunk_bytes=7), bytearray(), dict[int, Chunk]()
    available = 0
    while not cursor.is_settled(len(source)) or available < len(source):
        available += data.draw(st.integers(0, len(source) - available)) if len(seen) < 200 else len(source) - available
        sent = cursor.next_chunks(available, data.draw(st.integers(1, 4)))
        for chunk in sent:
            assert seen.setdefault(chunk.seq, chunk) == chunk
            if chunk.offset == len(server):
                server += source[chunk.offset : chunk.offset + chunk.size]
        answer_arrives = data.draw(st.booleans())
        if answer_arrives or not data.draw(st.booleans()):
            cursor.settle(sent, {})
        if not sent and available < len(source):
            available += 1
    assert bytes(server) == source


def _kept(path: Path, cursor: LogCursor) -> CursorJournal:
    path.touch()
    journal = CursorJournal(path)
    journal.keep(cursor)
    return journal


def test_a_cursor_is_restored_as_it_was_kept(tmp_path: Path) -> None:
    cursor = LogCursor(chunk_bytes=10)
    cursor.settle(cursor.next_chunks(25, 10)[:1], {})
    journal = _kept(tmp_path / "cursor", cursor)
    cursor.settle(cursor.next_chunks(30, 10)[:1], {})
    journal.keep(cursor)
    again = CursorJournal(tmp_path / "cursor")
    restored = again.restore()
    assert restored.stored_bytes == 20
    assert restored.next_chunks(31, 10) == [Chunk(3, 20, 5), Chunk(4, 25, 5), Chunk(5, 30, 1)]
    again.keep(restored)
    assert CursorJournal(tmp_path / "cursor").restore().next_chunks(40, 3) == restored.next_chunks(40, 3)


def test_a_cursor_whose_last_line_was_cut_off_is_restored_without_it(tmp_path: Path) -> None:
    path, cursor = tmp_path / "cursor", LogCursor(chunk_bytes=10)
    cursor.next_chunks(20, 10)
    _kept(path, cursor)
    path.write_bytes(path.read_bytes() + b"cut 1")
    journal = CursorJournal(path)
    restored = journal.restore()
    restored.next_chunks(27, 10)
    journal.keep(restored)
    assert CursorJournal(path).restore().next_chunks(27, 10) == [Chunk(1, 0, 10), Chunk(2, 10, 10), Chunk(3, 20, 7)]


@pytest.mark.parametrize("content", [None, b"cut x\n", b"cut\n", b"\n"])
def test_a_cursor_that_is_not_known_sends_nothing(tmp_path: Path, content: bytes | None) -> None:
    """A log with a hole would be worse than one that ends."""
    if content is not None:
        (tmp_path / "cursor").write_bytes(content)
    cursor = CursorJournal(tmp_path / "cursor").restore()
    assert cursor.given_up
    assert cursor.is_settled(100)


def test_a_journal_that_cannot_be_written_is_not_left_half_written(tmp_path: Path) -> None:
    path = tmp_path / "cursor"
    path.symlink_to("/dev/full")
    cursor = LogCursor()
    cursor.next_chunks(10, 1)
    CursorJournal(path).keep(cursor)
    assert not path.is_symlink()
    assert CursorJournal(path).restore().given_up


def test_a_log_file_grows_until_it_has_ended(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log")
    assert file.size == 0
    file.path.write_bytes(b"12345")
    assert file.size == 5
    file.end(4)
    assert file.size == 4


def _unexpected(error: OSError) -> None:
    raise AssertionError(f"the log could not be written: {error}")


async def test_a_spool_keeps_every_byte_of_several_writers(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "log", _unexpected)
    processes = [
        await asyncio.create_subprocess_exec("seq", str(first), str(first + 99_999), stdout=spool.writer)
        for first in (100_000, 200_000)
    ]
    for process in processes:
        assert await process.wait() == 0
    await spool.close()
    lines = (tmp_path / "log").read_text()
    assert len(lines) == spool.size == 2 * 100_000 * 7


async def test_a_spool_ends_although_a_writer_escaped(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "log", _unexpected)
    escaped = os.dup(spool.writer)
    os.write(escaped, b"before")
    await spool.close()
    os.close(escaped)
    assert (tmp_path / "log").read_bytes() == b"before"


async def test_a_secret_never_reaches_the_disk(tmp_path: Path) -> None:
    """Cut anywhere, by a process that writes byte by byte and ends in the middle of the last one."""
    spool = Spool(tmp_path / "log", _unexpected, SecretValues(["hunter2-hunter2"]).masker())
    for text in (b"it is hunter2-hunter2, ", b"really: hunter2-hunt"):
        for at in range(len(text)):
            os.write(spool.writer, text[at : at + 1])
    await spool.close()
    assert (tmp_path / "log").read_bytes() == b"it is ***, really: hunter2-hunt"
    assert spool.size == len(b"it is ***, really: hunter2-hunt")


async def test_what_may_be_a_secret_is_shown_when_nothing_follows(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "log", _unexpected, SecretValues(["hunter2-hunter2"]).masker())
    os.write(spool.writer, b"hunter2? ")
    os.write(spool.writer, b"hunter2")
    reader = await asyncio.create_subprocess_exec("tail", "-c+1", "-f", spool.path, stdout=asyncio.subprocess.PIPE)
    assert reader.stdout is not None
    assert await reader.stdout.readexactly(16) == b"hunter2? hunter2"
    os.write(spool.writer, b"-hunter2!")
    assert await reader.stdout.readexactly(4) == b"***!"
    reader.kill()
    await reader.communicate()
    await spool.close()


async def test_a_disk_that_is_full_is_told_once_and_output_goes_on(tmp_path: Path) -> None:
    """/dev/full refuses every byte, as a full disk does."""
    errors: asyncio.Queue[OSError] = asyncio.Queue()
    (tmp_path / "log").symlink_to("/dev/full")
    spool = Spool(tmp_path / "log", errors.put_nowait)
    process = await asyncio.create_subprocess_exec("seq", "1000000", stdout=spool.writer)
    assert await process.wait() == 0
    await spool.close()
    assert errors.qsize() == 1
    assert spool.size == 0


async def test_a_spool_stays_within_the_limit_of_all_logs(tmp_path: Path) -> None:
    errors: asyncio.Queue[OSError] = asyncio.Queue()
    (tmp_path / "other").write_bytes(bytes(600_000))
    spool = Spool(tmp_path / "log", errors.put_nowait, limit=1_000_000)
    for _ in range(100):
        await asyncio.to_thread(os.write, spool.writer, bytes(50_000))
    error = await errors.get()
    await spool.close()
    assert is_disk_full(error)
    assert "--spool-limit of 1000000 bytes" in str(error)
    assert spool.size == (tmp_path / "log").stat().st_size
    assert 400_000 <= spool.size < 900_000


async def test_a_spool_grows_again_when_other_logs_are_gone(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(bytes(999_000))
    spool = Spool(tmp_path / "log", _unexpected, limit=1_000_000)
    os.write(spool.writer, b"first")
    (tmp_path / "other").unlink()
    for _ in range(18):
        await asyncio.to_thread(os.write, spool.writer, bytes(50_000))
    await spool.close()
    assert spool.size == 900_005


async def test_a_log_that_nobody_wants_is_counted_and_takes_no_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "log", _unexpected, limit=100_000)
    os.write(spool.writer, bytes(50_000))
    spool.discard()
    for _ in range(10):
        await asyncio.to_thread(os.write, spool.writer, bytes(50_000))
    await spool.close()
    spool.discard()
    assert spool.size == 550_000
    assert (tmp_path / "log").stat().st_size == 0


def test_that_a_log_was_given_up_is_kept(tmp_path: Path) -> None:
    (tmp_path / "cursor").touch()
    cursor = LogCursor()
    journal = _kept(tmp_path / "cursor", cursor)
    cursor.next_chunks(10, limit=1)
    cursor.give_up("LOG_LIMIT:\n too much")
    journal.keep(cursor)
    journal.keep(cursor)
    restored = CursorJournal(tmp_path / "cursor").restore()
    assert (restored.given_up, restored.cut_bytes) == ("LOG_LIMIT: too much", 10)
    assert restored.next_chunks(100, limit=1) == []
    assert (tmp_path / "cursor").read_bytes().count(b"given-up") == 1


def test_a_cursor_that_can_neither_be_written_nor_removed_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "cursor").mkdir()
    assert CursorJournal(tmp_path / "cursor").restore().given_up
