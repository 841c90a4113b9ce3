"""Steps that become large with their secrets: what no message holds fails and says so, the others come one by one."""

import asyncio
import os
from uuid import UUID

from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.secret_names import SecretScope
from arcentra_server.domain.states import FailureReason, StepStatus
from arcentra_server.services.secrets import SecretService
from tests.support.world import Run, World, step_name
from tests.support.written import spec_of

LARGEST_VALUE = 64 * 1024
TOO_LARGE, LARGE = 48, 20  # secrets of a step: more than 3 MiB with one of 64 KiB each, and more than 1 MiB


async def _set_secret(world: World) -> None:
    secrets = SecretService(world.database, world.server.keys, os.urandom)
    await secrets.set(SecretScope("default"), "BIG", "x" * LARGEST_VALUE, "tester")


def _secrets(count: int) -> str:
    return "{" + ", ".join(f"S{number}: BIG" for number in range(count)) + "}"


async def _start(world: World, *counts: int) -> Run:
    """Trigger a run of one job for each count of secrets."""
    jobs = "\n".join(
        f"  - {{name: {name}, steps: [{{name: {name}1, uses: shell, secrets: {_secrets(count)}, args: {{script: a}}}}]}}"
        for name, count in zip("abcdef", counts, strict=False)
    )
    return await world.start(spec_of(f"jobs:\n{jobs}"))


async def _assert_failed(run: Run, name: str, *words: str) -> None:
    step = await run.step(name)
    assert (step.status, step.failure_reason) == (StepStatus.FAILED, FailureReason.VALIDATION)
    for word in ("with its secrets", "3,145,728", "fewer or smaller secrets", *words):
        assert word in step.error_message
    assert len(step.error_message) < 400


async def test_step_that_its_secrets_make_too_large_fails_alone_and_says_so(world: World) -> None:
    await _set_secret(world)
    agent = await world.agent("x", capacity=2)
    run = await _start(world, TOO_LARGE, 1)
    assert await world.work(agent) == ["b1"]
    await _assert_failed(run, "a1", f"{TOO_LARGE * LARGEST_VALUE // 1_000_000},")
    assert await run.states() == "F S"
    await world.check()


async def test_secret_counts_as_often_as_a_text_names_it(world: World) -> None:
    await _set_secret(world)
    agent = await world.agent("x", capacity=2)
    run = await world.start(
        spec_of(f"""
        jobs:
          - name: a
            steps: [{{name: a1, uses: shell, env: {{E: "{"${{ secrets.BIG }}" * TOO_LARGE}"}}, args: {{script: a}}}}]
          - name: b
            steps: [{{name: b1, uses: http, args: {{url: "https://x", body: "{"${{ secrets.BIG }}" * TOO_LARGE}"}}}}]
    """)
    )
    assert await world.work(agent) == []
    await _assert_failed(run, "a1")
    await _assert_failed(run, "b1")


async def test_step_that_grew_too_large_while_its_agent_was_away_fails(world: World) -> None:
    secrets = SecretService(world.database, world.server.keys, os.urandom)
    await secrets.set(SecretScope("default"), "BIG", "x", "tester")
    agent = await world.agent("x")
    run = await _start(world, TOO_LARGE)
    await world.server.schedule()
    world.take_one(agent)
    await _set_secret(world)
    news = await world.server.arrivals.catch_up(agent, [], [], started=frozenset())
    assert news.dispatches == []
    await world.server.schedule()
    await _assert_failed(run, "a1")


async def test_agent_that_pulls_is_told_nothing_of_a_step_that_is_too_large(world: World) -> None:
    await _set_secret(world)
    agent = await world.agent("x", online=False)
    run = await _start(world, TOO_LARGE)
    assert await world.server.dispatch.fetch(agent, 1, 0) == []
    await _assert_failed(run, "a1")


async def _fetch_all(world: World, agent: UUID, count: int) -> list[list[Dispatch]]:
    """Fetch until there is nothing new, and start nothing."""
    answers: list[list[Dispatch]] = []
    while sum(map(len, answers)) < count:
        answers.append(await world.server.dispatch.fetch(agent, 100, 0))
        assert answers[-1]
    return answers


async def test_what_one_answer_does_not_hold_comes_with_the_next(world: World) -> None:
    await _set_secret(world)
    agent = await world.agent("x", 4, online=False)
    await _start(world, LARGE, LARGE, 1, LARGE)
    answers = await _fetch_all(world, agent, 4)
    assert [[step_name(one) for one in answer] for answer in answers] == [["a1"], ["b1", "c1"], ["d1"]]
    again = await world.server.dispatch.fetch(agent, 100, 0)
    assert [step_name(one) for one in again] == ["a1"], "the answers may have been lost"
    for dispatch in (one for answer in answers for one in answer):
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    assert await world.server.dispatch.fetch(agent, 100, 0) == []


async def test_what_the_answer_to_one_that_waits_does_not_hold_is_for_the_next_that_waits(world: World) -> None:
    await _set_secret(world)
    agent = await world.agent("x", 4, online=False)
    async with asyncio.TaskGroup() as group:
        calls = []
        for _ in range(3):
            calls.append(group.create_task(world.server.dispatch.fetch(agent, 100, 30)))
            await world.server.bell.wait()  # asking is a reason for a pass
            assert await world.server.dispatch.run_once() == 0
        await _start(world, LARGE, LARGE, LARGE)
        assert await world.server.schedule() == 3
    assert sorted(step_name(one) for call in calls for one in call.result()) == ["a1", "b1", "c1"]
    assert [len(call.result()) for call in calls] == [1, 1, 1]
