"""Who may decide a gate, and what votes come to."""

from __future__ import annotations

from itertools import product

import pytest

from arcentra_server.domain.errors import Forbidden
from arcentra_server.domain.identity import Caller, Role
from arcentra_server.domain.states import ApprovalState
from arcentra_server.domain.voting import check_voter, result_of


def may_vote(approvers: tuple[str, ...], *, separation: bool, actors: tuple[str, ...], name: str = "ada") -> bool:
    try:
        check_voter(Caller("t1", name, Role.APPROVER), approvers, separation=separation, actors=actors)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize("separation", [False, True])
def test_everybody_may_where_nobody_is_named(separation: bool) -> None:
    assert may_vote((), separation=separation, actors=("bob",))


@pytest.mark.parametrize(("name", "may"), [("ada", True), ("bob", True), ("eve", False), ("Ada", False), ("", False)])
def test_only_those_may_who_are_named(name: str, may: bool) -> None:
    assert may_vote(("ada", "bob"), separation=False, actors=("cat",), name=name) is may


def test_separation_is_from_those_who_triggered_or_retried_the_run() -> None:
    assert may_vote((), separation=False, actors=("ada",))
    assert not may_vote((), separation=True, actors=("ada",))
    assert not may_vote((), separation=True, actors=("bob", "ada"))
    assert not may_vote(("ada",), separation=True, actors=("ada",))
    assert may_vote(("ada",), separation=True, actors=("bob",))


@pytest.mark.parametrize("actors", [(), ("",)])
def test_run_that_nobody_triggered_is_separate_from_all(actors: tuple[str, ...]) -> None:
    assert may_vote((), separation=True, actors=actors)


@pytest.mark.parametrize("needed", [1, 2, 3])
@pytest.mark.parametrize("votes", [list(one) for length in range(4) for one in product((True, False), repeat=length)])
def test_votes(votes: list[bool], needed: int) -> None:
    if False in votes:
        expected = ApprovalState.REJECTED
    elif votes.count(True) >= needed:
        expected = ApprovalState.APPROVED
    else:
        expected = ApprovalState.PENDING
    assert result_of(votes, needed) is expected
