"""Enums of the domain and of the contract, matched by name: `FAILED` is `STEP_RUN_STATUS_FAILED`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeVar

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.states import AgentStatus, RunStatus, StepStatus, TriggerType

if TYPE_CHECKING:
    # The class of generated enums, generic in its stubs only.
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper as ProtoEnum

Member = TypeVar("Member", bound=StrEnum)
Number = TypeVar("Number", bound=int)

_UNSPECIFIED = "UNSPECIFIED"


class EnumMap(Generic[Member, Number]):
    """One enum of the domain beside its twin of the contract.

    Raises:
        ValueError: the contract lacks a member. A member that only the contract has is refused when it comes.
    """

    def __init__(self, members: type[Member], proto: ProtoEnum[Number]) -> None:
        prefix = proto.DESCRIPTOR.values_by_number[0].name.removesuffix(_UNSPECIFIED)
        self._numbers = {member: proto.Value(prefix + member.name) for member in members}
        self._members: dict[int, Member] = {number: member for member, number in self._numbers.items()}

    def to_proto(self, member: Member) -> Number:
        return self._numbers[member]

    def from_proto(self, number: int, path: str) -> Member:
        """Return the member of a number.

        Raises:
            ValidationError: the number is UNSPECIFIED, or none that is known.
        """
        member = self._members.get(number)
        if member is None:
            raise ValidationError.at(path, f"{number} is not a known value" if number else "is required")
        return member

    def filter_from_proto(self, number: int, path: str) -> Member | None:
        """Return the member that a filter asks for, None for UNSPECIFIED: any.

        Raises:
            ValidationError: the number is none that is known.
        """
        return self.from_proto(number, path) if number else None


STEP_STATUS = EnumMap(StepStatus, steprun_pb2.StepRunStatus)
RUN_STATUS = EnumMap(RunStatus, pipeline_pb2.PipelineStatus)
TRIGGER_TYPE = EnumMap(TriggerType, pipeline_pb2.TriggerType)
AGENT_STATUS = EnumMap(AgentStatus, agent_pb2.AgentStatus)
STREAM_AGENT_STATUS = EnumMap(AgentStatus, stream_pb2.AgentStatus)


def step_as_run(status: StepStatus) -> pipeline_pb2.PipelineStatus.ValueType:
    """Return the state of a step run as pipelines show it: QUEUED is PENDING there."""
    return RUN_STATUS.to_proto(RunStatus.PENDING if status is StepStatus.QUEUED else RunStatus(status.value))
