import pytest

from arcentra_api.stream.v1 import stream_pb2 as pb
from arcentra_server.domain.execution import Resource
from arcentra_server.domain.states import RunStatus, StepStatus
from arcentra_server.rpc.convert.stream_events import event_type
from tests.support.journal import event_row

STEP, JOB, RUN, AGENT = Resource.STEP, Resource.JOB, Resource.RUN, Resource.AGENT


@pytest.mark.parametrize(
    ("resource", "previous", "status", "expected"),
    [
        (STEP, None, "PENDING", pb.EVENT_TYPE_STEP_RUN_CREATED),
        (STEP, None, "QUEUED", pb.EVENT_TYPE_STEP_RUN_CREATED),
        (STEP, "PENDING", "QUEUED", None),
        (STEP, "QUEUED", "RUNNING", pb.EVENT_TYPE_STEP_RUN_STARTED),
        (STEP, "RUNNING", "TIMEOUT", pb.EVENT_TYPE_STEP_RUN_FAILED),
        (STEP, "PENDING", "SKIPPED", pb.EVENT_TYPE_STEP_RUN_COMPLETED),
        (STEP, "QUEUED", "CANCELLED", pb.EVENT_TYPE_STEP_RUN_CANCELLED),
        (JOB, None, "PENDING", None),
        (JOB, "PENDING", "RUNNING", pb.EVENT_TYPE_JOB_STARTED),
        (JOB, "RUNNING", "RUNNING", None),
        (JOB, "RUNNING", "PARTIAL", pb.EVENT_TYPE_JOB_COMPLETED),
        (JOB, "FAILED", "PENDING", None),
        (RUN, "PENDING", "RUNNING", pb.EVENT_TYPE_PIPELINE_STARTED),
        (RUN, "PAUSED", "RUNNING", None),
        (RUN, "FAILED", "RUNNING", None),
        (RUN, "RUNNING", "PAUSED", None),
        (RUN, "RUNNING", "SUCCESS", pb.EVENT_TYPE_PIPELINE_COMPLETED),
        (AGENT, None, "OFFLINE", pb.EVENT_TYPE_AGENT_REGISTERED),
        (AGENT, "IDLE", "OFFLINE", pb.EVENT_TYPE_AGENT_OFFLINE),
        (AGENT, "OFFLINE", "IDLE", None),
    ],
)
def test_what_a_change_is_called(resource: Resource, previous: str | None, status: str, expected: int | None) -> None:
    assert event_type(event_row(5, resource, status, previous), is_state=False) == expected


@pytest.mark.parametrize(
    ("resource", "status", "expected"),
    [
        (STEP, "QUEUED", pb.EVENT_TYPE_STEP_RUN_CREATED),
        (STEP, "RUNNING", pb.EVENT_TYPE_STEP_RUN_STARTED),
        (RUN, "PENDING", None),
        (RUN, "RUNNING", pb.EVENT_TYPE_PIPELINE_STARTED),
        (AGENT, "IDLE", pb.EVENT_TYPE_AGENT_REGISTERED),
        (AGENT, "OFFLINE", pb.EVENT_TYPE_AGENT_OFFLINE),
    ],
)
def test_a_state_is_called_as_the_change_that_led_to_it(resource: Resource, status: str, expected: int | None) -> None:
    assert event_type(event_row(0, resource, status, None), is_state=True) == expected


def test_an_agent_that_is_away_is_so_whatever_was_said_of_it_last() -> None:
    drained = event_row(1, AGENT, "OFFLINE", "OFFLINE", message="drained")
    assert event_type(drained, is_state=True) == pb.EVENT_TYPE_AGENT_OFFLINE
    assert event_type(drained, is_state=False) is None


def test_an_agent_that_left() -> None:
    row = event_row(1, AGENT, "OFFLINE", "OFFLINE", message="unregistered")
    assert event_type(row, is_state=False) == pb.EVENT_TYPE_AGENT_UNREGISTERED
    noted = event_row(1, AGENT, "DRAINING", "IDLE", message="unregistered")  # the words of an operator
    assert event_type(noted, is_state=False) is None


def test_every_end_has_a_type() -> None:
    for status in StepStatus:
        if status.terminal:
            assert event_type(event_row(1, STEP, status.value, "RUNNING"), is_state=False) is not None
    for state in RunStatus:
        if state.terminal:
            assert event_type(event_row(1, JOB, state.value, "RUNNING"), is_state=False) is not None
