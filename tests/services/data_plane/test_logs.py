import asyncio
import gzip
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from uuid import UUID

import pytest
from backports import zstd

from arcentra_server.db.engine import Database, new_id
from arcentra_server.domain.errors import NotFound, Unavailable, ValidationError
from arcentra_server.domain.ingest import AckStatus, IngestResult, Reason
from arcentra_server.domain.log_order import LogBatch, LogPiece
from arcentra_server.domain.packing import Compression
from arcentra_server.domain.states import StepStatus
from arcentra_server.services.logs import LogService
from tests.support import factories
from tests.support.secret_keys import vault

LIMIT = 1 << 20


@asynccontextmanager
async def running(database: Database, limit: int = LIMIT) -> AsyncIterator[LogService]:
    service = LogService(database, vault(), limit=limit)
    async with asyncio.TaskGroup() as group:
        group.create_task(service.run())
        try:
            yield service
        finally:
            service.close()


@pytest.fixture
async def logs(database: Database) -> AsyncIterator[LogService]:
    async with running(database) as service:
        yield service


async def step_of(
    database: Database, status: StepStatus = StepStatus.RUNNING, log_size: int | None = None
) -> tuple[UUID, UUID]:
    """An agent and a step run that it runs or ran."""
    async with database.transaction() as tx:
        agent_id = await factories.agent(tx)
        job_id = await factories.job(tx, await factories.run(tx, await factories.pipeline(tx)))
        return agent_id, await factories.step(tx, job_id, status=status, agent_id=agent_id, log_size=log_size)


def batch(
    step_id: UUID, seq: int, raw: bytes, offset: int | None = None, kind: Compression = Compression.ZSTD
) -> LogBatch:
    data = {Compression.NONE: raw, Compression.GZIP: gzip.compress(raw), Compression.ZSTD: zstd.compress(raw)}[kind]
    return LogBatch(step_id, seq, offset, kind, data, len(raw))


async def push(logs: LogService, agent_id: UUID, *batches: LogBatch) -> IngestResult:
    async def each() -> AsyncIterator[LogBatch]:
        for one in batches:
            yield one

    return await logs.append(agent_id, each())


async def stored(logs: LogService, step_id: UUID, offset: int = 0) -> list[LogPiece]:
    return await logs.read(step_id, offset, 1 << 30)


def text(pieces: Sequence[LogPiece]) -> bytes:
    return b"".join(piece.data or b"<%d lost>" % piece.lost for piece in pieces)


@pytest.mark.parametrize("kind", Compression)
async def test_what_is_stored_is_read_from_any_byte(database: Database, logs: LogService, kind: Compression) -> None:
    agent_id, step_id = await step_of(database)
    parts = [b"first line\n", b"", b"second line\n" * 60_000, b"third\n"]
    whole = b"".join(parts)
    result = await push(logs, agent_id, *(batch(step_id, seq, raw, kind=kind) for seq, raw in enumerate(parts, 1)))
    assert (result.status, result.last_seq, result.expected_seq) == (AckStatus.ACCEPTED, 4, 5)
    for offset in (0, 1, 11, 12, 300_000, len(whole) - 6, len(whole) - 1, len(whole), len(whole) + 9):
        pieces = await stored(logs, step_id, offset)
        assert text(pieces) == whole[offset:]
        assert all(len(piece.data) <= 256 * 1024 for piece in pieces)
        at = offset
        for piece in pieces:
            assert piece.offset == at
            at += len(piece.data)
    assert text(await logs.read(step_id, 5, 7)) == whole[5:12]


async def test_batches_that_are_sent_again_are_accepted_and_stored_once(database: Database, logs: LogService) -> None:
    agent_id, step_id = await step_of(database)
    batches = [batch(step_id, seq, b"%d" % seq) for seq in range(1, 6)]
    await push(logs, agent_id, *batches[:3])
    result = await push(logs, agent_id, *batches)
    assert (result.status, result.last_seq) == (AckStatus.ACCEPTED, 5)
    assert text(await stored(logs, step_id)) == b"12345"


async def test_a_batch_that_is_missing_stops_those_after_it_until_it_comes(
    database: Database, logs: LogService
) -> None:
    agent_id, step_id = await step_of(database)
    batches = [batch(step_id, seq, b"%d" % seq, offset=seq - 1) for seq in range(1, 5)]
    result = await push(logs, agent_id, batches[0], batches[2], batches[3])
    assert (result.status, result.last_seq, result.expected_seq) == (AckStatus.OUT_OF_ORDER, 1, 2)
    assert [(item.seq, item.step_id, reason) for item, reason in result.rejections] == [
        (3, str(step_id), Reason.OUT_OF_ORDER),
        (4, str(step_id), Reason.OUT_OF_ORDER),
    ]
    assert (await push(logs, agent_id, *batches[1:])).status is AckStatus.ACCEPTED
    assert text(await stored(logs, step_id)) == b"1234"


async def test_a_declared_loss_is_a_gap_that_readers_see(database: Database, logs: LogService) -> None:
    agent_id, step_id = await step_of(database)
    result = await push(logs, agent_id, batch(step_id, 1, b"ab", 0), batch(step_id, 2, b"yz", 24))
    assert (result.status, result.lost_bytes) == (AckStatus.ACCEPTED, 22)
    assert await stored(logs, step_id) == [LogPiece(0, b"ab"), LogPiece(2, b"", 22), LogPiece(24, b"yz")]
    assert await stored(logs, step_id, 10) == [LogPiece(10, b"", 14), LogPiece(24, b"yz")]
    assert await stored(logs, step_id, 25) == [LogPiece(25, b"z")]


async def test_a_log_past_its_limit_is_cut_and_says_so(database: Database) -> None:
    agent_id, step_id = await step_of(database)
    async with running(database, limit=10) as logs:
        result = await push(
            logs, agent_id, batch(step_id, 1, b"12345678"), batch(step_id, 2, b"90abc"), batch(step_id, 3, b"d")
        )
        assert result.status is AckStatus.PARTIAL_ACCEPTED
        assert [(item.seq, reason) for item, reason in result.rejections] == [
            (2, Reason.LIMIT_REACHED),
            (3, Reason.LIMIT_REACHED),
        ]
        async with database.transaction() as tx:
            await factories.set_step(tx, step_id, StepStatus.SUCCESS, log_size=14)
        assert await stored(logs, step_id) == [LogPiece(0, b"12345678"), LogPiece(8, b"", 6)]
        followed = [piece async for piece in logs.follow(step_id, 0, follow=True)]
        assert followed == [LogPiece(0, b"12345678"), LogPiece(8, b"", 6)]


async def test_only_the_agent_that_has_or_had_the_step_run_may_send_its_log(
    database: Database, logs: LogService
) -> None:
    owner, step_id = await step_of(database, StepStatus.SUCCESS)
    async with database.transaction() as tx:
        stranger = await factories.agent(tx)
        queued = await factories.step(
            tx, await tx.fetchval("SELECT job_run_id FROM step_runs"), status=StepStatus.QUEUED
        )
        await factories.lease(tx, queued, stranger)
    result = await push(logs, stranger, batch(step_id, 1, b"x"), batch(new_id(), 1, b"x"))
    assert result.status is AckStatus.REJECTED
    assert {reason for _, reason in result.rejections} == {Reason.NOT_LEASED}
    assert (await push(logs, stranger, batch(queued, 1, b"x"))).status is AckStatus.ACCEPTED
    assert (await push(logs, owner, batch(step_id, 1, b"x"))).status is AckStatus.ACCEPTED
    mixed = await push(logs, owner, batch(queued, 2, b"x"), batch(step_id, 2, b"x"))
    assert (mixed.status, mixed.last_seq) == (AckStatus.PARTIAL_ACCEPTED, 2)


async def test_what_comes_before_a_malformed_batch_stays_stored(database: Database, logs: LogService) -> None:
    agent_id, step_id = await step_of(database)
    lying = LogBatch(step_id, 3, None, Compression.NONE, b"abc", 2)
    with pytest.raises(ValidationError):
        await push(logs, agent_id, batch(step_id, 1, b"1"), batch(step_id, 2, b"2"), lying)
    assert (await push(logs, agent_id, batch(step_id, 2, b"2"))).last_seq == 2
    assert text(await stored(logs, step_id)) == b"12"


async def test_a_chunk_that_does_not_unpack_is_a_gap(database: Database, logs: LogService) -> None:
    agent_id, step_id = await step_of(database)
    raw = b"damaged on its way " * 100
    packed = bytearray(zstd.compress(raw, options={zstd.CompressionParameter.checksum_flag: 1}))
    packed[-1] ^= 0xFF
    damaged = LogBatch(step_id, 2, None, Compression.ZSTD, bytes(packed), len(raw))
    await push(logs, agent_id, batch(step_id, 1, b"ab"), damaged, batch(step_id, 3, b"cd"))
    assert text(await stored(logs, step_id)) == b"ab<%d lost>cd" % len(raw)


async def test_a_follower_gets_history_then_what_arrives_and_ends_with_the_step_run(
    database: Database, logs: LogService
) -> None:
    agent_id, step_id = await step_of(database)
    await push(logs, agent_id, batch(step_id, 1, b"one "))
    async with aclosing(logs.follow(step_id, 0, follow=True)) as pieces:
        assert await anext(pieces) == LogPiece(0, b"one ")
        piece, _ = await asyncio.gather(anext(pieces), push(logs, agent_id, batch(step_id, 2, b"two ")))
        assert piece == LogPiece(4, b"two ")
        async with database.transaction() as tx:
            await factories.set_step(tx, step_id, StepStatus.SUCCESS, log_size=13)
        piece, _ = await asyncio.gather(anext(pieces), push(logs, agent_id, batch(step_id, 3, b"three")))
        assert piece == LogPiece(8, b"three")
        assert [piece async for piece in pieces] == []


async def test_a_follower_sees_what_another_process_stores(database: Database, logs: LogService) -> None:
    agent_id, step_id = await step_of(database)
    async with running(database) as other, aclosing(logs.follow(step_id, 0, follow=True)) as pieces:
        piece, _ = await asyncio.gather(anext(pieces), push(other, agent_id, batch(step_id, 1, b"elsewhere")))
        assert piece.data == b"elsewhere"


async def test_without_follow_a_reader_ends_at_what_is_stored(database: Database, logs: LogService) -> None:
    agent_id, step_id = await step_of(database)
    assert [piece async for piece in logs.follow(step_id, 0, follow=False)] == []
    await push(logs, agent_id, batch(step_id, 1, b"x"))
    assert [piece async for piece in logs.follow(step_id, 0, follow=False)] == [LogPiece(0, b"x")]


async def test_a_log_of_unknown_size_is_complete_when_nothing_came_for_long(
    database: Database, logs: LogService
) -> None:
    agent_id, step_id = await step_of(database, StepStatus.FAILED)
    await push(logs, agent_id, batch(step_id, 1, b"x"))
    async with database.transaction() as tx:
        await tx.execute("UPDATE step_runs SET finished_at = clock_timestamp() - interval '1 hour'")
        await tx.execute("UPDATE step_logs SET updated_at = clock_timestamp() - interval '1 hour'")
    assert [piece async for piece in logs.follow(step_id, 0, follow=True)] == [LogPiece(0, b"x")]


async def test_unknown_step_runs_and_offsets(database: Database, logs: LogService) -> None:
    with pytest.raises(NotFound):
        await stored(logs, new_id())
    _, step_id = await step_of(database)
    with pytest.raises(ValidationError):
        await stored(logs, step_id, 2**64 - 1)


async def test_followers_are_ended_when_the_server_stops(database: Database, logs: LogService) -> None:
    _, step_id = await step_of(database)

    async def stop() -> None:
        logs.end_followers()

    async with aclosing(logs.follow(step_id, 0, follow=True)) as pieces:
        with pytest.raises(Unavailable):
            await asyncio.gather(anext(pieces), stop())


async def test_many_writers_at_once_each_get_their_own_answer(database: Database, logs: LogService) -> None:
    steps = [await step_of(database) for _ in range(10)]
    results = await asyncio.gather(
        *(push(logs, agent, *(batch(step, seq, b"%03d;" % seq) for seq in range(1, 31))) for agent, step in steps)
    )
    assert {(result.status, result.last_seq) for result in results} == {(AckStatus.ACCEPTED, 30)}
    for _, step_id in steps:
        assert text(await stored(logs, step_id)) == b"".join(b"%03d;" % seq for seq in range(1, 31))
