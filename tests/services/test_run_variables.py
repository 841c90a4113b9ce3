"""Variables of a call: what steers programs is refused and starts nothing, what nobody declared is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arcentra_server.db.paging import Page
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.states import TriggerType
from tests.support.shapes import shape
from tests.support.world import World


def call(**variables: str) -> Trigger:
    return Trigger(TriggerType.MANUAL, "tester", variables=variables)


async def test_what_steers_programs_starts_no_run(world: World) -> None:
    await world.agent("x")
    pipeline = await world.pipeline(replace(shape("."), variables={"MODE": "slow"}))
    with pytest.raises(ValidationError) as refused:
        await world.server.runs.trigger(pipeline, call(MODE="fast", BASH_ENV="$(id)", GIT_SSH_COMMAND="sh"))
    assert [fault.path for fault in refused.value.faults] == ["variables['BASH_ENV']", "variables['GIT_SSH_COMMAND']"]
    _, total = await world.server.runs.list_page(pipeline_id=pipeline, namespace="", status=None, page=Page())
    assert total == 0
    assert (await world.server.pipelines.get(pipeline)).total_runs == 0


async def test_what_the_definition_declares_is_taken(world: World) -> None:
    await world.agent("x")
    pipeline = await world.pipeline(replace(shape("."), variables={"BASH_ENV": ""}))
    started = await world.server.runs.trigger(pipeline, call(BASH_ENV="./env.sh"))
    assert started.warnings == []
    assert (await world.server.runs.get(started.run_id)).variables == {"BASH_ENV": "./env.sh"}


async def test_what_nobody_declared_is_told(world: World) -> None:
    await world.agent("x")
    pipeline = await world.pipeline(replace(shape("."), variables={"CHANNEL": "beta"}))
    started = await world.server.runs.trigger(pipeline, call(CHANEL="stable"))
    told = [fault.message for fault in started.warnings]
    assert told == ["variable CHANEL is not declared by the pipeline: did you mean CHANNEL?"]
