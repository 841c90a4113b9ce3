"""Secrets in logs: masked in what is stored, whatever the cuts, and never shown in parts."""

import asyncio
import gzip
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import pytest
from backports import zstd
from structlog.testing import capture_logs

from arcentra_server.db.engine import Database
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.ingest import AckStatus, IngestResult, Reason
from arcentra_server.domain.log_order import LogBatch, LogPiece
from arcentra_server.domain.masking import Matcher, cover, needles_of
from arcentra_server.domain.packing import Compression, unpack
from arcentra_server.domain.secret_names import SecretScope
from arcentra_server.domain.states import StepStatus
from arcentra_server.services.logs import LogService
from tests.support import factories
from tests.support.secret_keys import secret_service, vault

SECRET = "s3cret/value"
STARS = b"*" * len(SECRET)
RAW = SECRET.encode()


@asynccontextmanager
async def running(database: Database, limit: int = 1 << 20) -> AsyncIterator[LogService]:
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


@dataclass
class Step:
    """A step run and its agent; batches are made one after the other."""

    id: UUID
    agent_id: UUID
    seq: int = 0

    def batch(self, raw: bytes, offset: int | None = None, kind: Compression = Compression.ZSTD) -> LogBatch:
        self.seq += 1
        data = {Compression.NONE: raw, Compression.GZIP: gzip.compress(raw), Compression.ZSTD: zstd.compress(raw)}[kind]
        return LogBatch(self.id, self.seq, offset, kind, data, len(raw))

    async def push(self, logs: LogService, *parts: bytes | LogBatch) -> IngestResult:
        """Send batches in one call."""
        batches = [part if isinstance(part, LogBatch) else self.batch(part) for part in parts]
        return await logs.append(self.agent_id, each(batches))

    async def text(self, logs: LogService) -> bytes:
        return text(await logs.read(self.id, 0, 1 << 30))


async def each(batches: Sequence[LogBatch]) -> AsyncIterator[LogBatch]:
    for batch in batches:
        yield batch


def text(pieces: Sequence[LogPiece]) -> bytes:
    return b"".join(piece.data or b"<%d lost>" % piece.lost for piece in pieces)


async def step_of(database: Database, *values: str, status: StepStatus = StepStatus.RUNNING) -> Step:
    """A step run that names a secret for each of these values."""
    async with database.transaction() as tx:
        agent_id = await factories.agent(tx)
        pipeline_id = await factories.pipeline(tx)
        job_id = await factories.job(tx, await factories.run(tx, pipeline_id))
        step_id = await factories.step(tx, job_id, status=status, agent_id=agent_id)
        names = {f"VARIABLE_{number}": f"SECRET_{number}" for number in range(len(values))}
        await tx.execute("UPDATE step_runs SET secrets = $2 WHERE id = $1", step_id, names)
    service = secret_service(database)
    for name, value in zip(names.values(), values, strict=True):
        await service.set(SecretScope("", pipeline_id), name, value, "t")
    return Step(step_id, agent_id)


async def in_database(database: Database, step: Step) -> bytes:
    """What the chunks of a step run hold, and whether the counter of their bytes is right."""
    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT * FROM log_chunks WHERE step_run_id = $1 ORDER BY seq", step.id)
        stored = await tx.fetchval("SELECT stored_bytes FROM step_logs WHERE step_run_id = $1", step.id)
    assert stored == sum(len(row["data"]) for row in rows)
    return b"".join(unpack(Compression(row["compression"]), row["data"], row["raw_size"]) for row in rows)


@pytest.mark.parametrize("kind", Compression)
async def test_a_secret_in_a_batch_is_stored_as_stars_of_its_length(
    database: Database, logs: LogService, kind: Compression
) -> None:
    step = await step_of(database, SECRET, "another one")
    raw = b"token: %s\nother: another one, s3cret%%2Fvalue\n" % RAW
    result = await step.push(logs, step.batch(raw, kind=kind), step.batch(b"plain\n", kind=kind))
    assert (result.status, result.last_seq) == (AckStatus.ACCEPTED, 2)
    wanted = b"token: ************\nother: ***********, **************\nplain\n"
    assert await step.text(logs) == wanted
    assert await in_database(database, step) == wanted


async def test_a_large_batch_is_masked_too(database: Database, logs: LogService) -> None:
    step = await step_of(database, SECRET)
    line = b"x" * 50 + RAW + b"\n"
    await step.push(logs, line * 15_000)
    assert await step.text(logs) == line.replace(RAW, STARS) * 15_000


@pytest.mark.parametrize("one_call", [True, False], ids=["one call", "many calls"])
@pytest.mark.parametrize("cuts", [[3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [0, 0, 11, 11], [6, 6, 7]])
async def test_a_secret_across_batches_is_masked_in_all_of_them(
    database: Database, logs: LogService, cuts: list[int], one_call: bool
) -> None:
    step = await step_of(database, SECRET)
    ends = [*cuts, len(RAW)]
    parts = [RAW[start:end] for start, end in zip([0, *cuts], ends, strict=True)]
    parts = [b"before " + parts[0], *parts[1:-1], parts[-1] + b" after"]
    if one_call:
        await step.push(logs, *parts)
    else:
        for part in parts:
            await step.push(logs, part)
    wanted = b"before " + STARS + b" after"
    assert await step.text(logs) == wanted
    assert await in_database(database, step) == wanted


async def test_a_secret_across_a_hundred_batches_is_masked(database: Database, logs: LogService) -> None:
    secret = "".join(f"{number:02}x" for number in range(35))
    step = await step_of(database, secret)
    single = [bytes([byte]) for byte in secret.encode()]
    await step.push(logs, b"before ", *single[:80])
    await step.push(logs, *single[80:], b"!")
    assert await in_database(database, step) == b"before " + b"*" * len(secret) + b"!"


async def test_a_secret_across_servers_is_masked(database: Database, logs: LogService) -> None:
    step = await step_of(database, SECRET)
    async with running(database) as other:
        for number, part in enumerate((b"a s3c", b"ret", b"/val", b"ue!")):
            await step.push((logs, other)[number % 2], part)
    assert await step.text(logs) == b"a " + STARS + b"!"


async def test_a_secret_across_two_calls_that_are_open_together_is_masked(database: Database, logs: LogService) -> None:
    step = await step_of(database, SECRET)
    first, second, third = step.batch(b"a s3c"), step.batch(b"ret/v"), step.batch(b"alue!")

    async def interrupted(other: LogService) -> AsyncIterator[LogBatch]:
        yield first
        while (await step.push(other, second)).status is not AckStatus.ACCEPTED:
            pass  # the first one is not committed yet
        yield third

    async with running(database) as other:
        assert (await logs.append(step.agent_id, interrupted(other))).status is AckStatus.ACCEPTED
    assert await step.text(logs) == b"a " + STARS + b"!"


async def test_any_cut_of_a_log_stores_the_same(database: Database, logs: LogService) -> None:
    secrets = ["abcabcabcab", "cabxyz", "line one\nline two", SECRET]
    whole = b"abcabcabcabcabcabcabxyz line one\nline two s3cret/values3cret/value cz1Njc3Y3JldC92YWx1ZQ abcabcabca"
    wanted = cover(whole, Matcher(needles_of(secrets)).spans(whole))
    choose = random.Random(7)  # noqa: S311 - the same cuts in each run
    for _ in range(25):
        step = await step_of(database, *secrets)
        cuts = sorted(choose.sample(range(len(whole) + 1), choose.randint(0, 12)))
        ends = [*cuts, len(whole)]
        await step.push(logs, *(whole[start:end] for start, end in zip([0, *cuts], ends, strict=True)))
        assert await in_database(database, step) == wanted


async def test_what_may_be_the_beginning_of_a_secret_is_not_shown_before_it_is_known(
    database: Database, logs: LogService
) -> None:
    step = await step_of(database, SECRET)
    await step.push(logs, b"one s3cret/valu")
    assert await step.text(logs) == b"one "
    async with aclosing(logs.follow(step.id, 0, follow=True)) as pieces:
        assert await anext(pieces) == LogPiece(0, b"one ")
        piece, _ = await asyncio.gather(anext(pieces), step.push(logs, b"e s3c"))
        assert piece == LogPiece(4, b"***********")
        assert await anext(pieces) == LogPiece(15, b"* ")
        piece, _ = await asyncio.gather(anext(pieces), step.push(logs, b"ond s"))
        assert piece == LogPiece(17, b"s3c")
        assert await anext(pieces) == LogPiece(20, b"ond ")
        async with database.transaction() as tx:
            await factories.set_step(tx, step.id, StepStatus.SUCCESS, log_size=25)
        # Nothing comes any more that would make a secret of it.
        assert await anext(pieces) == LogPiece(24, b"s")
        assert [piece async for piece in pieces] == []


async def test_what_is_sent_again_is_stored_once_and_joined_once(database: Database, logs: LogService) -> None:
    step = await step_of(database, SECRET)
    batches = [step.batch(part) for part in (b"a s3cre", b"t/val", b"ue z")]
    await step.push(logs, *batches[:2])
    result = await step.push(logs, batches[2], batches[0], batches[1], batches[2])
    assert (result.status, result.last_seq) == (AckStatus.ACCEPTED, 3)
    assert await in_database(database, step) == b"a " + STARS + b" z"
    skipped = step.batch(b"nothing")
    result = await step.push(logs, step.batch(b"refused"), skipped, step.batch(b"!"))
    assert result.status is AckStatus.OUT_OF_ORDER


async def test_the_two_sides_of_a_loss_are_not_joined(database: Database, logs: LogService) -> None:
    step = await step_of(database, SECRET)
    first = step.batch(b"a s3cre")
    await step.push(logs, first, step.batch(b"t/value !", offset=20), b" s3cret", b"/value")
    await step.push(logs, step.batch(b"s3cret/value", offset=90))
    assert await step.text(logs) == b"a s3cre<13 lost>t/value ! " + STARS + b"<48 lost>" + STARS


async def test_a_batch_that_does_not_unpack_leaves_nothing_of_it(database: Database, logs: LogService) -> None:
    step = await step_of(database, SECRET)
    raw = RAW * 10 + random.Random(1).randbytes(200)  # noqa: S311 - what does not pack
    packed = bytearray(zstd.compress(raw, options={zstd.CompressionParameter.checksum_flag: 1}))
    packed[-1] ^= 0xFF
    step.seq += 1
    damaged = LogBatch(step.id, step.seq, None, Compression.ZSTD, bytes(packed), len(raw))
    await step.push(logs, damaged, b"s3cret", b"/value")
    assert await step.text(logs) == b"<%d lost>" % len(raw) + STARS
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT data FROM log_chunks WHERE seq = 1") == b""
    # The next call finds it stored.
    await step.push(logs, b" s3cret/", b"value")
    assert await step.text(logs) == b"<%d lost>" % len(raw) + STARS + b" " + STARS


async def test_the_limits_of_batches_and_logs_hold(database: Database) -> None:
    step = await step_of(database, SECRET)
    async with running(database, limit=30) as logs:
        bomb = zstd.compress(bytes(2 << 20))
        with pytest.raises(ValidationError, match="exceeds 1 MiB"):
            await step.push(logs, LogBatch(step.id, 1, None, Compression.ZSTD, bomb, 2 << 20))
        with pytest.raises(ValidationError):
            await step.push(logs, LogBatch(step.id, 1, None, Compression.NONE, RAW, 5))
        result = await step.push(logs, RAW + b" and ", RAW, b"more")
        assert [reason for _, reason in result.rejections] == [Reason.LIMIT_REACHED]
        assert await step.text(logs) == STARS + b" and " + STARS


async def test_short_values_are_not_masked_and_others_of_the_step_are(database: Database, logs: LogService) -> None:
    step, short = await step_of(database, SECRET, "on"), await step_of(database, "on")
    await step.push(logs, b"on and on " + RAW)
    await short.push(logs, b"on and on " + RAW)
    assert await step.text(logs) == b"on and on " + STARS
    assert await short.text(logs) == b"on and on " + RAW


async def test_a_secret_that_is_gone_or_cannot_be_opened_is_told_and_others_are_masked(
    database: Database, logs: LogService
) -> None:
    step = await step_of(database, SECRET, "another one", "the third one")
    async with database.transaction() as tx:
        await tx.execute("DELETE FROM secrets WHERE name = 'SECRET_1'")
        await tx.execute("UPDATE secrets SET key_id = 'lost' WHERE name = 'SECRET_2'")
    with capture_logs() as said:
        await step.push(logs, RAW + b" another one")
    assert [(line["event"], line["secrets"]) for line in said] == [("log_not_masked", ["SECRET_1", "SECRET_2"])]
    assert SECRET not in str(said)
    assert await step.text(logs) == STARS + b" another one"


async def test_a_step_run_without_secrets_is_looked_up_once_it_has_started(
    database: Database, logs: LogService
) -> None:
    plain, waiting = await step_of(database), await step_of(database, status=StepStatus.QUEUED)
    for step in (plain, waiting):
        await step.push(logs, RAW)
    await secret_service(database).set(SecretScope(), "LATER", SECRET, "t")
    async with database.transaction() as tx:
        await tx.execute("""UPDATE step_runs SET secrets = '{"A": "LATER"}'""")
    for step in (plain, waiting):
        await step.push(logs, b"!" + RAW)
    assert await plain.text(logs) == RAW + b"!" + RAW
    assert await waiting.text(logs) == RAW + b"!" + STARS


async def test_only_the_agent_of_the_step_run_may_send_anything(database: Database, logs: LogService) -> None:
    step, other = await step_of(database, SECRET), await step_of(database)
    stranger = Step(step.id, other.agent_id)
    result = await stranger.push(logs, RAW)
    assert result.status is AckStatus.REJECTED
    assert (await step.push(logs, RAW)).status is AckStatus.ACCEPTED
    assert await step.text(logs) == STARS


async def test_a_leased_step_run_that_has_not_started_is_masked(database: Database, logs: LogService) -> None:
    step = await step_of(database, SECRET, status=StepStatus.QUEUED)
    async with database.transaction() as tx:
        await tx.execute("UPDATE step_runs SET agent_id = NULL")
        await factories.lease(tx, step.id, step.agent_id)
    await step.push(logs, RAW)
    assert await step.text(logs) == STARS


async def test_many_logs_at_once_are_each_masked_with_their_own_secrets(database: Database, logs: LogService) -> None:
    values = [f"secret of {number:02}" for number in range(10)]
    steps = [await step_of(database, value) for value in values]
    steps.append(await step_of(database))
    whole = " ".join(values).encode()
    await asyncio.gather(*(step.push(logs, *(whole[at : at + 7] for at in range(0, len(whole), 7))) for step in steps))
    for step, value in zip(steps, values, strict=False):
        assert await in_database(database, step) == whole.replace(value.encode(), b"*" * len(value))
    assert await in_database(database, steps[-1]) == whole
