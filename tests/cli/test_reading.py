"""When a stream is opened again, and how often that is told."""

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from arcentra_cli.follow.reading import Link, is_lost_connection


@pytest.mark.parametrize(
    ("code", "text", "received", "lost"),
    [
        (StatusCode.UNAVAILABLE, "Socket closed", False, True),
        (StatusCode.CANCELLED, "", True, True),
        (StatusCode.RESOURCE_EXHAUSTED, "slow reader", True, True),
        (StatusCode.RESOURCE_EXHAUSTED, "quota", False, False),
        (StatusCode.INTERNAL, "Received RST_STREAM with error code 2", False, True),
        (StatusCode.INTERNAL, "error 4711", True, False),
        (StatusCode.UNAUTHENTICATED, "", True, False),
        (StatusCode.NOT_FOUND, "", True, False),
    ],
)
def test_lost_connections(code: StatusCode, text: str, received: bool, lost: bool) -> None:
    assert is_lost_connection(AioRpcError(code, Metadata(), Metadata(), text), received=received) is lost


def test_an_outage_of_many_streams_is_told_once() -> None:
    told: list[str] = []
    link = Link(told.append, longest_outage_s=60)
    assert link.lost(0, 1, 100)
    assert link.lost(0, 1, 100)  # another stream
    assert link.lost(1, 0, 101)  # a vain attempt
    link.heard(1)
    assert link.lost(0, 1, 102)  # the last stream to notice the first outage
    assert len(told) == 1
    assert link.lost(1, 1, 200)
    assert len(told) == 2


def test_a_long_outage_is_given_up() -> None:
    link = Link(lambda _: None, longest_outage_s=60)
    assert link.lost(0, 1, 100)
    assert link.lost(1, 0, 159)
    assert not link.lost(1, 0, 160)


def test_a_call_that_lived_long_without_a_message_ended_the_outage() -> None:
    told: list[str] = []
    link = Link(told.append, longest_outage_s=60)
    assert link.lost(0, 1, 100)
    assert link.lost(1, 900, 1001)
    assert len(told) == 2
