"""`approval ...`."""

from collections.abc import Sequence

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.actions.lookup import pipeline_id_of
from arcentra_cli.client import Client
from arcentra_cli.config import Settings
from arcentra_cli.errors import CliError
from arcentra_cli.output import emit
from arcentra_cli.render import approvals as render
from arcentra_cli.render import waiting
from arcentra_cli.session import session

LARGEST_PAGE = 100
_NAMES_SHOWN = 10


async def list_approvals(
    settings: Settings, run_id: str, pipeline: str | None, state: str, page: int, limit: int
) -> None:
    """Show a page of gates, newest first. `state`: `all`, or one of them in lower case."""
    async with session(settings) as client:
        request = pipeline_pb2.ListApprovalsRequest(
            pipeline_id=await pipeline_id_of(client, pipeline, settings.namespace),
            run_id=run_id,
            namespace=settings.namespace or "",
            state=_state(state),
            page=page,
            page_size=limit,
        )
        reply = await client.read(client.pipelines.ListApprovals, request)
    emit(settings.output, reply, lambda: render.approvals(reply))


def _state(word: str) -> pipeline_pb2.ApprovalState.ValueType:
    name = "UNSPECIFIED" if word == "all" else word.upper()
    return pipeline_pb2.ApprovalState.Value(f"APPROVAL_STATE_{name}")


async def show(settings: Settings, approval: str | None, run_id: str) -> None:
    """Show one gate."""
    async with session(settings) as client:
        gate = await _find(client, settings, approval, run_id)
    emit(settings.output, gate, lambda: render.approval(gate))


async def decide(settings: Settings, approval: str | None, run_id: str, *, approve: bool, comment: str) -> None:
    """Vote at a gate, bound to the definition and the commit that it was found with."""
    decision = pipeline_pb2.APPROVAL_DECISION_APPROVE if approve else pipeline_pb2.APPROVAL_DECISION_REJECT
    async with session(settings) as client:
        gate = await _find(client, settings, approval, run_id)
        request = pipeline_pb2.DecideApprovalRequest(
            approval_id=gate.approval_id,
            decision=decision,
            comment=comment,
            spec_digest=gate.spec_digest,
            commit_sha=gate.commit_sha,
        )
        reply = await client.read(client.pipelines.DecideApproval, request)  # the same vote again changes nothing
    emit(settings.output, reply, lambda: render.voted(reply.approval))


async def _find(client: Client, settings: Settings, approval: str | None, run_id: str) -> pipeline_pb2.ApprovalDetail:
    """The gate whose id begins with `approval`; without it the only pending one of the run.

    Raises:
        CliError: there is none, or more than one.
    """
    if approval is None and not run_id:
        raise CliError("which gate? name its id, or with --run the run that waits at it: see `arcentra approval list`")
    if approval is not None and not approval.strip():
        raise CliError("the id of the gate is empty")
    begin = (approval or "").strip().lower()
    asked = pipeline_pb2.ListApprovalsRequest(
        run_id=run_id, namespace=settings.namespace or "", state=pipeline_pb2.APPROVAL_STATE_PENDING
    )
    found = await _beginning_with(client, asked, begin)
    if not found and begin:
        asked.state = pipeline_pb2.APPROVAL_STATE_UNSPECIFIED
        found = await _beginning_with(client, asked, begin)
    return _only(found, begin, run_id)


def _only(found: Sequence[pipeline_pb2.ApprovalDetail], begin: str, run_id: str) -> pipeline_pb2.ApprovalDetail:
    of_run = f" of run {run_id}" if run_id else ""
    if not found:
        raise CliError(
            f"no approval{of_run} has an id that begins with {begin!r}: see `arcentra approval list --state all`"
            if begin
            else f"no approval{of_run} is pending"
        )
    if len(found) > 1:
        which = f"approvals{of_run} have ids that begin with {begin!r}" if begin else f"approvals{of_run} are pending"
        lines = [f"{gate.approval_id}  {waiting.gate_name(gate)} of run {gate.run_id}" for gate in found]
        more = [f"and {len(lines) - _NAMES_SHOWN} more"] if len(lines) > _NAMES_SHOWN else []
        raise CliError(f"{len(found)} {which}: name one", details=(*lines[:_NAMES_SHOWN], *more))
    return found[0]


async def _beginning_with(
    client: Client, asked: pipeline_pb2.ListApprovalsRequest, begin: str
) -> list[pipeline_pb2.ApprovalDetail]:
    """Every gate asked for whose id begins so, over all pages."""
    found: dict[str, pipeline_pb2.ApprovalDetail] = {}
    asked.page, asked.page_size = 0, LARGEST_PAGE
    while True:
        asked.page += 1
        reply = await client.read(client.pipelines.ListApprovals, asked)
        # A gate that is reached meanwhile moves the others on by one: the same may stand on two pages.
        found.update((gate.approval_id, gate) for gate in reply.approvals if gate.approval_id.startswith(begin))
        if asked.page * LARGEST_PAGE >= reply.total or not reply.approvals:
            return list(found.values())
