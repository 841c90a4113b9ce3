from enum import StrEnum
from typing import Any

import pytest

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.states import AgentStatus, RunStatus, StepStatus, TriggerType
from arcentra_server.rpc.convert import enums

PAIRS: list[tuple[Any, type[StrEnum], Any]] = [
    (enums.STEP_STATUS, StepStatus, steprun_pb2.StepRunStatus),
    (enums.RUN_STATUS, RunStatus, pipeline_pb2.PipelineStatus),
    (enums.TRIGGER_TYPE, TriggerType, pipeline_pb2.TriggerType),
    (enums.AGENT_STATUS, AgentStatus, agent_pb2.AgentStatus),
    (enums.STREAM_AGENT_STATUS, AgentStatus, stream_pb2.AgentStatus),
]


@pytest.mark.parametrize(("mapping", "members", "proto"), PAIRS)
def test_every_value_but_unspecified_has_a_twin_of_its_name(mapping: Any, members: type[StrEnum], proto: Any) -> None:
    numbers = {number: mapping.from_proto(number, "status") for number in proto.values() if number}
    assert set(numbers.values()) == set(members)
    for number, member in numbers.items():
        assert proto.Name(number).endswith(f"_{member.name}")
        assert mapping.to_proto(member) == number


@pytest.mark.parametrize("mapping", [pair[0] for pair in PAIRS])
def test_unspecified_is_refused_where_a_value_is_needed_and_any_in_a_filter(mapping: Any) -> None:
    with pytest.raises(ValidationError, match=r"^status: is required$"):
        mapping.from_proto(0, "status")
    assert mapping.filter_from_proto(0, "status") is None


def test_unknown_numbers_are_refused() -> None:
    for read in (enums.STEP_STATUS.from_proto, enums.STEP_STATUS.filter_from_proto):
        with pytest.raises(ValidationError, match=r"^status: 77 is not a known value$"):
            read(77, "status")


def test_a_contract_that_lacks_a_member_is_found_at_once() -> None:
    with pytest.raises(ValueError, match="TRIGGER_TYPE_PENDING"):
        enums.EnumMap(StepStatus, pipeline_pb2.TriggerType)


@pytest.mark.parametrize("status", StepStatus)
def test_pipelines_show_a_queued_step_as_pending(status: StepStatus) -> None:
    name = "PENDING" if status is StepStatus.QUEUED else status.name
    assert pipeline_pb2.PipelineStatus.Name(enums.step_as_run(status)) == f"PIPELINE_STATUS_{name}"
