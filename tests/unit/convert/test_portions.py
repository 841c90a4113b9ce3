"""How large what is sent to an agent becomes, with its secrets, and that no message is refused for its size."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_api.agent.v1 import agent_pb2
from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.expressions.marks import mark
from arcentra_server.domain.portions import LARGEST_PORTION, LARGEST_STEP_RUN, portions
from arcentra_server.rpc.channels import LARGEST_DISPATCH, Outgoing
from arcentra_server.rpc.convert.agent import responses
from arcentra_server.rpc.convert.dispatch import complete, sent_size

KIB = 1024
GRPC_DEFAULT = 4 * KIB * KIB
SECRETS = {"A": "a", "B": "ü" * 100, "C": "c" * 3_000, "D": "d" * 64 * KIB}
TEXTS = st.lists(st.sampled_from([*map(mark, SECRETS), "", "plain", "é" * 50, mark("NOT_A_SECRET")]), max_size=4).map(
    "".join
)
ARGS = st.recursive(
    TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
)


def dispatch(number: int, payload: bytes = b"", secrets: dict[str, str] | None = None) -> Dispatch:
    given, named = secrets or {}, {**(secrets or {}), "NOT_A_SECRET": ""} if secrets else {}
    return Dispatch(UUID(int=number), "t" * 43, UUID(int=number), UUID(int=1), 9_999, payload, given, named, "c" * 64)


def plain(size: int) -> bytes:
    return agent_pb2.StepRun(action="x" * size).SerializeToString()


@given(
    env=st.dictionaries(st.sampled_from("EFGH"), TEXTS, max_size=3),
    args=st.dictionaries(st.sampled_from("xyz"), ARGS, max_size=3),
    image=TEXTS,
    names=st.booleans(),
)
def test_size_is_known_before_it_is_made(env: dict[str, str], args: dict[str, Any], image: str, names: bool) -> None:
    run = agent_pb2.StepRun(env={**env, "ARCENTRA_COMMIT": ""}, image=image)
    run.args.update(args)
    one = dispatch(1, run.SerializeToString(), SECRETS if names else None)
    size = complete(one).ByteSize()
    assert size <= sent_size(one) <= size + len(one.payload) + 400


@pytest.mark.parametrize(
    ("secrets", "length", "count", "messages"),
    [
        (0, 0, 1, 1),
        (0, 0, 64, 1),
        (0, 0, 65, 2),
        (1, 64 * KIB, 31, 1),
        (1, 64 * KIB, 64, 3),
        (2, 16 * KIB, 64, 2),
        (5, 64 * KIB, 64, 11),
        (47, 64 * KIB, 3, 3),
    ],
)
@pytest.mark.parametrize("batched", [True, False])
def test_no_message_is_refused_for_the_secrets_in_it(
    secrets: int, length: int, count: int, messages: int, batched: bool
) -> None:
    values = {f"S{number}": "x" * length for number in range(secrets)}
    leased = [dispatch(number, b"", values) for number in range(count)]
    sent = list(responses(Outgoing(dispatches=leased, acked_sequence=7), "a", batched=batched))
    assert len(sent) == (messages if batched else count)
    assert max(message.ByteSize() for message in sent) <= GRPC_DEFAULT - 512 * KIB
    order = [run.step_run_id for message in sent for run in message.task_dispatch.step_runs]
    assert order == [str(one.step_run_id) for one in leased]
    assert [message.acked_sequence for message in sent] == [7 if batched and not n else 0 for n in range(len(sent))]


@given(
    st.lists(
        st.integers(0, LARGEST_STEP_RUN) | st.sampled_from([0, LARGEST_PORTION, LARGEST_PORTION + 1]), max_size=30
    ),
    st.integers(1, LARGEST_DISPATCH),
)
def test_portions_are_as_few_as_order_and_limits_allow(sizes: list[int], most: int) -> None:
    leased = [dispatch(number) for number in range(len(sizes))]
    cut = list(portions(leased, most, lambda one: sizes[one.lease_id.int]))
    assert [one for portion in cut for one in portion] == leased
    totals = [sum(sizes[one.lease_id.int] for one in portion) for portion in cut]
    for portion, total in zip(cut, totals, strict=True):
        assert 1 <= len(portion) <= most
        assert total <= LARGEST_PORTION or len(portion) == 1
    for portion, total, after in zip(cut, totals, cut[1:], strict=False):
        assert len(portion) == most or total + sizes[after[0].lease_id.int] > LARGEST_PORTION


def test_large_payloads_without_secrets_are_spread_too() -> None:
    leased = [dispatch(number, plain(900 * KIB)) for number in range(5)]
    sent = list(responses(Outgoing(dispatches=leased), "a", batched=True))
    assert [len(message.task_dispatch.step_runs) for message in sent] == [2, 2, 1]
