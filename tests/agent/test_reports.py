"""The outbox: nothing is lost, nothing overtakes."""

import pytest

from arcentra_agent.reports import Outbox
from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.steprun.v1 import steprun_pb2

RUNNING = steprun_pb2.STEP_RUN_STATUS_RUNNING
SUCCESS = steprun_pb2.STEP_RUN_STATUS_SUCCESS


def report(
    step: str, status: steprun_pb2.StepRunStatus.ValueType = RUNNING, lease: str = "lease"
) -> agent_pb2.TaskStatus:
    return agent_pb2.TaskStatus(step_run_id=step, status=status, lease_token=lease)


def outbox_of(*steps: str) -> Outbox:
    outbox = Outbox()
    for step in steps:
        outbox.put(report(step))
    return outbox


def names(reports: list[agent_pb2.TaskStatus]) -> list[str]:
    return [item.step_run_id for item in reports]


def test_a_message_stays_small_enough_for_the_server() -> None:
    outbox = Outbox()
    for number in range(40):
        big = report(str(number), SUCCESS)
        big.outputs["notes"] = "x" * 60_000
        outbox.put(big)
    sent: list[str] = []
    for sequence in range(1, 4):
        message = agent_pb2.ConnectRequest(task_statuses=outbox.take(sequence, 256).statuses)
        assert message.ByteSize() < 1 << 21
        sent += names(list(message.task_statuses))
    assert sent == [str(number) for number in range(40)]


def test_a_report_that_is_too_large_alone_goes_alone() -> None:
    outbox = Outbox()
    huge = report("huge", SUCCESS)
    huge.outputs["notes"] = "x" * 2_000_000
    outbox.put(huge)
    outbox.put(report("small"))
    assert names(outbox.take(1, 256).statuses) == ["huge"]
    assert names(outbox.take(2, 256).statuses) == ["small"]


def test_one_message_takes_everything_pending_up_to_the_limit() -> None:
    outbox = outbox_of("a", "b", "c")
    outbox.put(agent_pb2.TaskAck(command_id="x"))
    assert names(outbox.take(1, 2).statuses) == ["a", "b"]
    rest = outbox.take(2, 10)
    assert (names(rest.statuses), [ack.command_id for ack in rest.acks]) == (["c"], ["x"])
    assert not outbox.take(3, 10)
    assert not outbox.has_pending
    assert len(outbox) == 4


@pytest.mark.parametrize(
    ("acked", "committed", "left"),
    [(0, [], 3), (1, ["a"], 2), (2, ["a", "b"], 1), (3, ["a", "b", "c"], 0), (9, ["a", "b", "c"], 0)],
)
def test_an_acknowledgement_covers_every_earlier_message(acked: int, committed: list[str], left: int) -> None:
    outbox = outbox_of("a", "b", "c")
    for sequence in (1, 2, 3):
        outbox.take(sequence, 1)
    assert names(outbox.acknowledge(acked)) == committed
    assert len(outbox) == left
    assert outbox.acknowledge(acked) == []


def test_after_a_lost_stream_the_outstanding_goes_first_and_in_order() -> None:
    outbox = outbox_of("a", "b")
    outbox.take(1, 1)
    outbox.take(2, 1)
    outbox.acknowledge(1)
    outbox.put(report("b", SUCCESS))
    outbox.put(report("c"))
    outbox.rewind()
    again = outbox.take(1, 10)
    assert [(item.step_run_id, item.status) for item in again.statuses] == [
        ("b", RUNNING),
        ("b", SUCCESS),
        ("c", RUNNING),
    ]


def test_a_refused_report_is_not_committed_and_tells_its_lease() -> None:
    outbox = Outbox()
    outbox.put(report("a", lease="old"))
    outbox.take(1, 10)
    outbox.put(report("a", lease="new"))
    outbox.take(2, 10)
    refused = outbox.refuse("a", RUNNING)
    assert refused is not None
    assert refused.lease_token == "old"
    assert [item.lease_token for item in outbox.acknowledge(2)] == ["new"]


def test_a_refusal_of_what_was_not_sent_is_nobodys() -> None:
    outbox = outbox_of("a")
    assert outbox.refuse("a", RUNNING) is None
    outbox.take(1, 10)
    assert outbox.refuse("a", SUCCESS) is None
    assert outbox.refuse("b", RUNNING) is None
    assert len(outbox) == 1


def test_a_forgotten_step_is_not_reported() -> None:
    outbox = outbox_of("a", "b")
    outbox.take(1, 10)
    outbox.put(report("a", SUCCESS))
    outbox.put(agent_pb2.TaskAck(command_id="x"))
    outbox.drop("a")
    outbox.rewind()
    left = outbox.take(2, 10)
    assert names(left.statuses) == ["b"]
    assert len(left.acks) == 1
