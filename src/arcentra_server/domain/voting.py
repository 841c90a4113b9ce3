"""Who may decide a gate, and what votes come to."""

from __future__ import annotations

from collections.abc import Sequence

from arcentra_server.domain.errors import Forbidden
from arcentra_server.domain.identity import Caller
from arcentra_server.domain.states import ApprovalState


def check_voter(caller: Caller, approvers: Sequence[str], *, separation: bool, actors: Sequence[str]) -> None:
    """Check that a caller may vote at a gate (security.md, S27). A person is a name, whatever tokens carry it.

    Args:
        caller: Who wants to vote; its role was checked before.
        approvers: The names of those who may; empty: everybody with the role.
        separation: Whether those who triggered or retried the run may not.
        actors: The names of those.

    Raises:
        Forbidden: the caller may not.
    """
    if approvers and caller.name not in approvers:
        raise Forbidden("not an approver: this gate names who may decide it")
    if separation and caller.name in actors:
        raise Forbidden("not an approver: this gate is not for who triggered the run")


def result_of(votes: Sequence[bool], needed: int) -> ApprovalState:
    """Return what votes come to: one against decides, as many in favour as are needed do."""
    if not all(votes):
        return ApprovalState.REJECTED
    return ApprovalState.APPROVED if len(votes) >= needed else ApprovalState.PENDING
