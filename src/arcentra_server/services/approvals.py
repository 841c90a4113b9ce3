"""Gates: list, vote, and let those that nobody decided in time count as refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import approvals, deadlines
from arcentra_server.db.approvals import ApprovalFilter, ApprovalRow
from arcentra_server.db.bad_rows import BadRows
from arcentra_server.db.clock import database_time
from arcentra_server.db.engine import Tx
from arcentra_server.db.execution import load_run, load_stage
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.db.paging import Page
from arcentra_server.domain.errors import InvalidTransition, NotFound
from arcentra_server.domain.identity import Caller
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.ledger_turns import EXPIRED, REFUSED
from arcentra_server.domain.states import ApprovalState
from arcentra_server.domain.transitions import check_approval_transition
from arcentra_server.domain.voting import check_voter, result_of

MOST_EXPIRED = 100
# What a vote that comes too late is told, where it was not by votes that the gate was decided.
_DECIDED = {
    ApprovalState.EXPIRED: "approval already decided: nobody did in time, so it counts as refused",
    ApprovalState.CANCELLED: "approval already decided: nothing waits behind it any more",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """A vote. `spec_digest` and `commit_sha`: what the voter looked at; empty is not compared."""

    approval_id: UUID
    approved: bool
    comment: str = ""
    spec_digest: bytes = b""
    commit_sha: str = ""


class ApprovalService:
    """See the module."""

    def __init__(self, store: ExecutionStore) -> None:
        self._store = store
        self._bad = BadRows("approvals")

    async def list_page(self, wanted: ApprovalFilter, page: Page) -> tuple[list[ApprovalRow], int]:
        """Return one page of gates, the newest first, and how many there are."""
        async with self._store.database.transaction() as tx:
            return await approvals.list_page(tx, wanted, page)

    async def decide(self, decision: Decision, caller: Caller) -> ApprovalRow:
        """Take a vote; return the gate. The same vote of the same caller changes nothing.

        Raises:
            NotFound: no such gate.
            Forbidden: the caller may not decide it.
            InvalidTransition: it is decided, its time is over, the caller has voted otherwise, or it has another definition or commit.
        """

        async def act(tx: Tx, ledger: Ledger) -> None:
            gate = await _locked(tx, ledger, decision.approval_id)
            check_voter(caller, gate.approvers, separation=gate.separation, actors=gate.trigger_actor.split("\n"))
            earlier = next((vote for vote in gate.votes if vote.voter == caller.name), None)
            if earlier is not None and earlier.approved is decision.approved:
                return
            if gate.state is not ApprovalState.PENDING or earlier is not None:
                raise InvalidTransition(_DECIDED.get(gate.state, "approval already decided"))
            if gate.expires_at is not None and gate.expires_at <= await database_time(tx):
                raise InvalidTransition("nobody decided in time: the approval has expired")
            _check_binding(gate, decision)
            await approvals.add_vote(tx, gate.id, caller.name, decision.comment, approved=decision.approved)
            votes = [*(vote.approved for vote in gate.votes), decision.approved]
            await _settle(tx, ledger, gate, result_of(votes, gate.needed))
            crashpoint("approval.before_commit")

        await self._store.change(act)
        crashpoint("approval.after_commit")
        async with self._store.database.transaction() as tx:
            row = await approvals.get(tx, decision.approval_id)
        if row is None:
            raise NotFound(_unknown(decision.approval_id))
        return row

    async def expire(self) -> None:
        """Decide the gates whose time is over; they count as refused.

        Raises:
            ExceptionGroup: of gates that could not be decided; the others were.
        """
        async with self._store.database.statements() as tx:
            due = await deadlines.expired_approvals(tx, self._bad.all_passed_over(), MOST_EXPIRED)
        errors: list[Exception] = []
        for gate_id in due:
            _, failed = await self._bad.each(self._store, [gate_id], _expire)
            errors += failed.values()
        if errors:
            raise ExceptionGroup("some gates could not be decided", errors)


async def _expire(tx: Tx, ledger: Ledger, gate_ids: Sequence[UUID]) -> None:
    for gate_id in gate_ids:
        gate = await _locked(tx, ledger, gate_id)
        if gate.state is ApprovalState.PENDING:
            await _settle(tx, ledger, gate, ApprovalState.EXPIRED)


async def _settle(tx: Tx, ledger: Ledger, gate: ApprovalRow, state: ApprovalState) -> None:
    if state is ApprovalState.PENDING:
        return
    check_approval_transition(gate.state, state)
    await approvals.decide(tx, gate.id, state)
    approved, why = state is ApprovalState.APPROVED, EXPIRED if state is ApprovalState.EXPIRED else REFUSED
    if gate.job_id is not None:
        ledger.pass_job_gate(ledger.jobs[gate.job_id], approved=approved, why=why)
        return
    index = gate.stage_index or 0
    jobs, upstream = await load_stage(tx, ledger, gate.run_id, index)
    run, stage = ledger.runs[gate.run_id], ledger.stages[gate.run_id, index]
    ledger.pass_stage_gate(run, stage, jobs, upstream, approved=approved, why=why)


async def _locked(tx: Tx, ledger: Ledger, approval_id: UUID) -> ApprovalRow:
    run_id = await approvals.run_of(tx, approval_id)
    if run_id is not None:
        await load_run(tx, ledger, run_id)
    gate = await approvals.get(tx, approval_id)
    if gate is None:
        raise NotFound(_unknown(approval_id))
    return gate


def _check_binding(gate: ApprovalRow, decision: Decision) -> None:
    if decision.spec_digest and decision.spec_digest != gate.spec_digest:
        raise InvalidTransition("the gate is of another definition: look at it again")
    if decision.commit_sha and decision.commit_sha != gate.commit_sha:
        raise InvalidTransition("the gate is of another commit: look at it again")


def _unknown(approval_id: UUID) -> str:
    return f"approval {str(approval_id)!r} not found"
