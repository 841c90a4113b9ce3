"""Natural batching: who shares a commit, in what order, and who fails with whom."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from weakref import WeakSet

import pytest

from arcentra_server.db.batcher import Batcher
from arcentra_server.domain.errors import GivenUp, Unavailable

Numbers = Batcher[int, int]


class Ledger:
    """Commits numbers and remembers the batches; a commit waits for `gate`, and a negative number is refused."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def commit(self, batch: Sequence[int]) -> list[int]:
        self.batches.append(list(batch))
        self.entered.set()
        await self.gate.wait()
        if any(number < 0 for number in batch):
            raise ValueError("negative")
        return [number * 2 for number in batch]


@asynccontextmanager
async def running(
    commit: Callable[[Sequence[int]], Awaitable[Sequence[int]]], largest: int = 100
) -> AsyncIterator[Numbers]:
    batcher: Numbers = Batcher(commit, largest=largest)
    async with asyncio.TaskGroup() as group:
        group.create_task(batcher.run())
        yield batcher
        batcher.close()


async def test_what_arrives_during_a_commit_shares_the_next() -> None:
    ledger = Ledger()
    ledger.gate.clear()
    async with running(ledger.commit) as batcher:
        first = batcher.submit(1)
        await ledger.entered.wait()
        others = [batcher.submit(number) for number in (2, 3, 4)]
        ledger.gate.set()
        assert await first == 2
        assert await asyncio.gather(*others) == [4, 6, 8]
    assert ledger.batches == [[1], [2, 3, 4]]


async def test_batches_are_bounded_and_keep_the_order() -> None:
    ledger = Ledger()
    async with running(ledger.commit, largest=3) as batcher:
        futures = [batcher.submit(number) for number in range(8)]
        await asyncio.gather(*futures)
    assert ledger.batches == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_what_is_in_no_hurry_waits_for_company_after_a_commit() -> None:
    ledger = Ledger()
    async with running(ledger.commit) as batcher:
        assert await batcher.submit(1, pause=3_600) == 2, "nothing was committed just now"
        patient = [batcher.submit(number, pause=3_600) for number in (2, 3)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert ledger.batches == [[1]]
        assert await batcher.submit(4) == 8
        assert [future.result() for future in patient] == [4, 6]
        last = batcher.submit(5, pause=3_600)
        batcher.hurry()
        assert await last == 10
    assert ledger.batches == [[1], [2, 3, 4], [5]]


async def test_pause_ends_by_itself_and_with_the_batcher() -> None:
    ledger = Ledger()
    async with running(ledger.commit) as batcher:
        for number in (1, 2):
            assert await batcher.submit(number, pause=0.01) == 2 * number
    async with running(ledger.commit) as batcher:
        await batcher.submit(3)
        last = batcher.submit(4, pause=3_600)
    assert last.result() == 8


async def test_batch_waits_no_longer_than_the_item_in_the_greatest_hurry() -> None:
    ledger = Ledger()
    async with running(ledger.commit) as batcher:
        await batcher.submit(1)
        patient = [batcher.submit(number, pause=3_600) for number in (2, 3)]
        await asyncio.sleep(0)
        assert await batcher.submit(4, pause=0.01) == 8
        patient += [batcher.submit(5, pause=3_600)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert ledger.batches == [[1], [2, 3, 4]], "the hurry of an item ends with it"
        batcher.hurry()
        assert await asyncio.gather(*patient) == [4, 6, 10]
    assert ledger.batches == [[1], [2, 3, 4], [5]]


async def test_what_found_no_room_in_a_batch_does_not_wait_for_company_again() -> None:
    ledger = Ledger()
    async with running(ledger.commit, largest=2) as batcher:
        await batcher.submit(1)
        patient = [batcher.submit(number, pause=3_600) for number in (2, 3, 4)]
        batcher.hurry()
        assert await asyncio.gather(*patient) == [4, 6, 8]
    assert ledger.batches == [[1], [2, 3], [4]]


async def test_poisoned_item_fails_alone() -> None:
    ledger = Ledger()
    async with running(ledger.commit) as batcher:
        futures = [batcher.submit(number) for number in (1, -2, 3)]
        done = await asyncio.gather(*futures, return_exceptions=True)
    assert (done[0], type(done[1]), done[2]) == (2, ValueError, 6)
    assert ledger.batches == [[1, -2, 3], [1], [-2], [3]]


async def test_caller_that_went_away_harms_nobody() -> None:
    ledger = Ledger()
    ledger.gate.clear()
    async with running(ledger.commit) as batcher:
        batcher.submit(0)
        await ledger.entered.wait()
        gone, gone_and_bad, stays = batcher.submit(1), batcher.submit(-1), batcher.submit(2)
        gone.cancel()
        gone_and_bad.cancel()
        ledger.gate.set()
        assert await stays == 4


async def test_close_commits_the_rest_and_takes_nothing_more() -> None:
    ledger = Ledger()
    batcher: Numbers = Batcher(ledger.commit)
    futures = [batcher.submit(number) for number in (1, 2)]
    batcher.close()
    with pytest.raises(Unavailable):
        await batcher.submit(3)
    await batcher.run()
    assert [future.result() for future in futures] == [2, 4]


async def test_everyone_is_told_at_once_that_the_database_is_away() -> None:
    """One try for all of them: a try for each would keep the last waiting for as many time limits as there are items."""
    tries = 0

    async def commit(_: Sequence[int]) -> list[int]:
        nonlocal tries
        tries += 1
        raise Unavailable("the database is not reachable")

    async with running(commit) as batcher:
        done = await asyncio.gather(*(batcher.submit(number) for number in range(50)), return_exceptions=True)
    assert {type(answer) for answer in done} == {Unavailable}
    assert tries == 1


class Away(Ledger):
    """A ledger whose database is away when `away` says so of a batch."""

    def __init__(self, away: Callable[[Sequence[int]], bool]) -> None:
        super().__init__()
        self.away = away

    async def commit(self, batch: Sequence[int]) -> list[int]:
        try:
            return await super().commit(batch)
        finally:
            if self.away(batch):
                raise Unavailable("the database is not reachable")


async def test_what_was_handed_in_before_the_database_was_known_to_be_away_fails_and_what_comes_after_is_tried() -> (
    None
):
    ledger = Away(lambda batch: 0 in batch)
    ledger.gate.clear()
    again: list[asyncio.Future[int]] = []
    async with running(ledger.commit, largest=2) as batcher:

        class Insisting(Told):
            def set_exception(self, exception: Exception, /) -> None:
                super().set_exception(exception)
                again.append(batcher.submit(10, pause=3_600))

        happened: list[object] = []
        before = [batcher.submit(number) for number in range(3)]
        batcher.hand_in(3, Insisting(happened))
        await ledger.entered.wait()
        before += [batcher.submit(number) for number in range(4, 8)]
        ledger.gate.set()
        done = await asyncio.gather(*before, return_exceptions=True)
        assert {type(answer) for answer in done} == {Unavailable}
        assert happened == [Unavailable]
        assert ledger.batches == [[0, 1]]
        assert await batcher.submit(9) == 18
        assert [await future for future in again] == [20]
    assert ledger.batches == [[0, 1], [10, 9]]


async def test_what_takes_the_database_too_long_fails_nothing_that_waits() -> None:
    batches: list[list[int]] = []

    async def commit(batch: Sequence[int]) -> list[int]:
        batches.append(list(batch))
        await asyncio.sleep(0)
        if 0 in batch:
            raise GivenUp("the database took too long, or has no room")
        return list(batch)

    async with running(commit, largest=2) as batcher:
        done = await asyncio.gather(*(batcher.submit(number) for number in range(4)), return_exceptions=True)
    assert (*map(type, done[:2]), *done[2:]) == (GivenUp, GivenUp, 2, 3)
    assert batches == [[0, 1], [2, 3]]


async def test_items_that_are_committed_one_by_one_are_given_up_together() -> None:
    ledger = Away(lambda batch: batch == [3])
    async with running(ledger.commit, largest=5) as batcher:
        futures = [batcher.submit(number) for number in (1, -2, 3, 4, 5, 6)]
        done = await asyncio.gather(*futures, return_exceptions=True)
        assert await batcher.submit(7) == 14
    assert (done[0], *map(type, done[1:])) == (2, ValueError, *[Unavailable] * 4)
    assert ledger.batches == [[1, -2, 3, 4, 5], [1], [-2], [3], [7]]


class Told:
    """A waiter that notes in a list what it is told."""

    def __init__(self, happened: list[object]) -> None:
        self.happened = happened

    def done(self) -> bool:
        return False

    def set_result(self, result: int, /) -> None:
        self.happened.append(result)

    def set_exception(self, exception: Exception, /) -> None:
        self.happened.append(type(exception))


class Broken(Told):
    """A waiter that cannot take what it is told."""

    def set_result(self, result: int, /) -> None:
        raise RuntimeError(f"no {result}")


async def test_waiters_of_a_batch_are_told_in_the_turn_of_the_loop_in_which_it_was_committed() -> None:
    happened: list[object] = []

    async def commit(batch: Sequence[int]) -> Sequence[int]:
        asyncio.get_running_loop().call_soon(happened.append, "turn")
        return batch

    async with running(commit) as batcher:
        for number in (1, 2, 3):
            batcher.hand_in(number, Told(happened))
        await batcher.submit(4)
    batcher.hand_in(5, Told(happened))
    assert happened == [1, 2, 3, "turn", Unavailable]


async def test_waiter_that_raises_harms_nobody() -> None:
    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(str(context["exception"])))
    async with running(Ledger().commit) as batcher:
        batcher.hand_in(1, Broken([]))
        assert await batcher.submit(2) == 4
        assert await batcher.submit(3) == 6
    assert faults == ["no 2"]


@pytest.mark.parametrize("error", [Unavailable("away"), GivenUp("too long"), ValueError("wrong")])
async def test_failure_that_nobody_waits_for_any_more_is_no_fault(error: Exception) -> None:
    """As of what was handed in by a stream that has ended; what is a fault of the server is logged by the batcher."""
    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(str(context["message"])))

    async def commit(_: Sequence[int]) -> list[int]:
        raise error

    async with running(commit) as batcher:
        for number in (1, 2):
            batcher.submit(number)
        with pytest.raises(type(error)):
            await batcher.submit(3)
    batcher.submit(4)
    gc.collect()
    assert faults == []


class Thing:
    """An item that can be seen to be gone."""


@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("wrong")])
async def test_nothing_keeps_what_was_not_committed(error: Exception) -> None:
    things: WeakSet[Thing] = WeakSet()

    def lose(batch: Sequence[Thing]) -> None:
        raise OSError(f"{len(batch)} are lost")

    async def commit(batch: Sequence[Thing]) -> Sequence[None]:
        try:
            lose(batch)
        except OSError as cause:
            raise type(error)(str(error)) from cause
        return []

    batcher: Batcher[Thing, None] = Batcher(commit, largest=4)

    def submit() -> asyncio.Future[None]:
        thing = Thing()
        things.add(thing)
        return batcher.submit(thing)

    gc.collect()
    gc.disable()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(batcher.run())
            futures = [submit() for _ in range(7)]
            with pytest.raises(type(error)):
                await futures[0]
            await asyncio.wait(futures)
            # Nobody awaits the others, as where a stream has ended with the first.
            assert all(future.exception() for future in futures)
            assert set(things) == set()
            futures.clear()
            batcher.close()
    finally:
        gc.enable()


async def test_what_was_committed_is_not_kept_until_the_next_batch() -> None:
    things: WeakSet[Thing] = WeakSet()

    async def commit(batch: Sequence[Thing]) -> Sequence[None]:
        return [None for _ in batch]

    batcher: Batcher[Thing, None] = Batcher(commit)
    async with asyncio.TaskGroup() as group:
        group.create_task(batcher.run())
        thing = Thing()
        things.add(thing)
        done = batcher.submit(thing)
        del thing
        await done
        await asyncio.sleep(0)
        assert set(things) == set()
        batcher.close()
