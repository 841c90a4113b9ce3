"""Evaluations of a long transaction leave the rest of the server its turn."""

import asyncio

from arcentra_server.db.pace import LONGEST_STRETCH, Pace
from arcentra_server.domain.expressions import Meter


def charged(steps: int) -> Meter:
    meter = Meter()
    meter.step(steps)
    return meter


async def test_others_get_their_turn_after_a_stretch_and_not_before() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(other())
        pace = Pace()
        for _ in range(9):
            await pace.note(charged(LONGEST_STRETCH // 10))
        assert turns == 0
        await pace.note(charged(LONGEST_STRETCH // 10))
        assert turns == 1
        await pace.note(charged(1))
        assert turns == 1
        await pace.note(charged(LONGEST_STRETCH))
        assert turns == 2
        task.cancel()
