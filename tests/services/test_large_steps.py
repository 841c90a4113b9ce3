"""Steps that become large with their secrets: what no message holds fails and says so, the others come one by one."""

import asyncio
import os
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.secret_names import SecretScope
from arcentra_server.domain.states import FailureReason, StepStatus
from arcentra_server.rpc.convert.dispatch import WireForm
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


@dataclass
class WatchedForm(WireForm):
    """A wire form that notes which step runs were read: each is measured before it is sent."""

    read: set[UUID] = field(default_factory=set)

    def size(self, dispatch: Dispatch) -> int:
        self.read.add(dispatch.step_run_id)
        return super().size(dispatch)

    def take(self) -> int:
        """Return how many were read since the last time."""
        count = len(self.read)
        self.read.clear()
        return count


async def test_of_many_large_steps_only_those_are_read_that_an_answer_may_hold(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = 30_000
    for module in ("domain.portions", "services.dispatch"):
        monkeypatch.setattr(f"arcentra_server.{module}.LARGEST_PORTION", length * 3 // 2)
    form = world.server.store.form = WatchedForm()
    agent = await world.agent("x", 8, online=False)
    steps = f"[{{name: s, uses: shell, args: {{script: {'x' * length}}}}}]"
    run = await world.start(
        spec_of("jobs:\n" + "\n".join(f"  - {{name: {name}, steps: {steps}}}" for name in "abcdef"))
    )
    first = await world.server.dispatch.fetch(agent, 100, 0)
    form.take()
    given = [*first]
    while len(given) < 6:
        given += (answer := await world.server.dispatch.fetch(agent, 100, 0))
        assert (len(answer), form.take()) == (1, 2)
    assert len({dispatch.lease_id for dispatch in given}) == 6
    assert sorted(given, key=lambda dispatch: dispatch.lease_id) == given
    assert await world.server.dispatch.fetch(agent, 1, 0) == first
    assert form.take() == 1
    for dispatch in given:
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    assert await run.states() == "R R R R R R"


async def test_what_cannot_be_sent_keeps_nothing_behind_it_from_an_answer(world: World) -> None:
    secrets = SecretService(world.database, world.server.keys, os.urandom)
    await secrets.set(SecretScope("default"), "BIG", "x", "tester")
    agent = await world.agent("x", 3, online=False)
    run = await _start(world, TOO_LARGE, TOO_LARGE, TOO_LARGE)
    first = await world.server.dispatch.fetch(agent, 100, 0)
    last = max(first, key=lambda dispatch: dispatch.lease_id).step_run_id
    await world.sql("UPDATE step_runs SET secrets = '{}' WHERE id = $1", last)
    await _set_secret(world)
    assert [one.step_run_id for one in await world.server.dispatch.fetch(agent, 1, 0)] == [last]
    await world.server.schedule()
    assert sorted(await run.states()) == sorted("F F Q")


async def test_agents_that_wait_get_what_is_leased_to_them_a_few_at_a_time_and_nothing_newer_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = [await world.agent(name, 1, online=False) for name in "xyz"]
    form = world.server.store.form = WatchedForm()
    runs = [await world.start("..") for _ in agents]
    firsts = [(await world.server.dispatch.fetch(agent, 1, 0))[0] for agent in agents]
    for first in firsts:
        assert await world.report(first, StepStatus.RUNNING) is None
    largest = await world.value("SELECT max(octet_length(dispatch)) FROM step_runs")
    monkeypatch.setattr("arcentra_server.db.claims.LARGEST_READ", largest + 1)  # which two reach
    async with asyncio.TaskGroup() as group:
        calls = []
        for agent in agents:
            assert await world.server.schedule() == 0
            calls.append(group.create_task(world.server.dispatch.fetch(agent, 1, 30)))
            await world.server.bell.wait()  # asking is a reason for a pass
        assert await world.server.schedule() == 0
        for first in firsts:
            await world.end(first)
        await world.sql("UPDATE agents SET capacity = 2")
        await world.start(". . .")
        for count in (2, 1):
            form.take()
            await world.server.bell.wait()
            assert await world.server.dispatch.run_once() == 0
            assert form.take() == count
    assert [step_name(one) for call in calls for one in call.result()] == ["a2"] * 3
    assert {call.result()[0].step_run_id for call in calls} == {await run.step_id("a2") for run in runs}
