"""Variables of a call: what steers programs is refused and starts nothing, what nobody declared is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.db.paging import Page
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.identity import Caller, Role
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.states import TriggerType
from arcentra_server.rpc.convert.run import trigger_from
from tests.support.shapes import shape
from tests.support.world import World
from tests.support.written import spec_of


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


WITH_SECRET = """
    variables: {CHANNEL: beta}
    jobs: [{name: a, steps: [{name: s, uses: shell, secrets: [TOKEN], args: {script: ./deploy}}]}]
"""
UNHEARD_OF = pipeline_pb2.TriggerPipelineRequest(variables={"CHANNEL": "x", "UNHEARD_OF": "x"})


def asked_by(role: Role) -> Trigger:
    """The call of somebody of a role."""
    return trigger_from(UNHEARD_OF, Caller("id", "ann", role))


async def test_who_may_only_start_runs_gives_nothing_undeclared_where_secrets_are(world: World) -> None:
    await world.agent("x")
    pipeline = await world.pipeline(spec_of(WITH_SECRET))
    with pytest.raises(ValidationError, match=r"add UNHEARD_OF to the `variables` of the pipeline") as refused:
        await world.server.runs.trigger(pipeline, asked_by(Role.TRIGGER))
    assert [fault.path for fault in refused.value.faults] == ["variables['UNHEARD_OF']"]
    assert (await world.server.pipelines.get(pipeline)).total_runs == 0
    for role in (Role.MAINTAINER, Role.ADMIN):
        started = await world.server.runs.trigger(pipeline, asked_by(role))
        assert any("UNHEARD_OF is not declared" in fault.message for fault in started.warnings)
    plain = await world.pipeline(replace(shape("."), variables={"CHANNEL": "beta"}))
    started = await world.server.runs.trigger(plain, asked_by(Role.TRIGGER))
    assert any("UNHEARD_OF is not declared" in fault.message for fault in started.warnings)


async def test_what_nobody_declared_is_told(world: World) -> None:
    await world.agent("x")
    pipeline = await world.pipeline(replace(shape("."), variables={"CHANNEL": "beta"}))
    started = await world.server.runs.trigger(pipeline, call(CHANEL="stable"))
    told = [fault.message for fault in started.warnings]
    assert told == ["variable CHANEL is not declared by the pipeline: did you mean CHANNEL?"]
