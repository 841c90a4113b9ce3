"""What follows a commit fails, and the change is answered all the same: it is there."""

import os

import pytest
from structlog.testing import capture_logs

from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.secret_names import SecretScope
from arcentra_server.domain.states import StepStatus
from arcentra_server.services.secrets import SecretService
from tests.support.world import Run, World
from tests.support.written import spec_of

_TOO_LARGE = 48  # secrets of 64 KiB each: more than the 3 MiB that a step may have


async def _start(world: World) -> Run:
    """Start a run of a job whose second step is too large to be sent with its secrets."""
    secrets = SecretService(world.database, world.server.keys, os.urandom)
    await secrets.set(SecretScope("default"), "BIG", "x" * 64 * 1024, "tester")
    names = ", ".join(f"S{number}: BIG" for number in range(_TOO_LARGE))
    return await world.start(
        spec_of(f"""
        jobs:
          - name: a
            steps:
              - {{name: a1, uses: shell, args: {{script: a}}}}
              - {{name: a2, uses: shell, secrets: {{{names}}}, args: {{script: a}}}}
    """)
    )


async def test_report_is_answered_though_the_step_after_it_can_neither_be_sent_nor_failed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await world.agent("x")
    run = await _start(world)
    await world.server.schedule()
    dispatch = await world.begin(agent)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Ledger, "fail_waiting", fail)
    with capture_logs() as said:
        assert await world.report(dispatch, StepStatus.SUCCESS) is None
    [line] = [line for line in said if line["event"] == "unsendable_steps_not_failed"]
    assert line["step_run_ids"] == [str(await run.step_id("a2"))]
    assert isinstance(line["exc_info"], ZeroDivisionError)
    assert [line for line in said if line["event"] == "item_not_committed"] == []
    assert await run.states() == "SQ"
    monkeypatch.undo()
    await world.come_back(agent)
    await world.server.schedule()
    assert await run.states() == "SF", "it is tried again"


async def test_report_is_answered_though_nobody_can_be_told_of_what_it_brought_about(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start("..")
    await world.server.schedule()
    dispatch = await world.begin(agent)

    def refuse(_: Dispatch) -> None:
        raise ZeroDivisionError

    world.server.links.listener = refuse
    with capture_logs() as said:
        assert await world.report(dispatch, StepStatus.SUCCESS) is None
    [line] = [line for line in said if line["event"] == "not_told_of_commit"]
    assert isinstance(line["exc_info"], ZeroDivisionError)
    assert await run.states() == "SQ"


async def test_change_that_leased_what_waits_is_answered_though_the_scheduler_cannot_be_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = world.server
    server.store.place_with(server.dispatch)
    agent = await world.agent("x")
    run = await world.start(". | .")
    await server.schedule()
    dispatch = await world.begin(agent)

    def fail(_: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(server.dispatch, "_count_leased", fail)
    with capture_logs() as said:
        assert await world.report(dispatch, StepStatus.SUCCESS) is None
    assert [line["event"] for line in said] == ["not_told_of_commit"]
    assert await run.states() == "S Q"
    assert (await run.step("b1")).leased
