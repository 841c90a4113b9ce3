"""Gates, concurrency keys and deployments between the contract and the services."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.db.approvals import ApprovalFilter, ApprovalRow
from arcentra_server.db.concurrency import ClaimRow
from arcentra_server.db.deployments import DeploymentFilter, DeploymentRow
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.states import ApprovalState
from arcentra_server.rpc.convert.enums import EnumMap, step_as_run
from arcentra_server.rpc.convert.fields import filter_id, plain_text, required_id, unix_seconds
from arcentra_server.services.approvals import Decision
from arcentra_server.services.runs import RetryScope

APPROVAL_STATE = EnumMap(ApprovalState, pipeline_pb2.ApprovalState)
LONGEST_COMMENT = 2_000


def approval_filter(request: pipeline_pb2.ListApprovalsRequest) -> ApprovalFilter:
    """Read which gates are wanted.

    Raises:
        ValidationError: an id is none, or the state is not known.
    """
    return ApprovalFilter(
        pipeline_id=filter_id(request.pipeline_id, "pipeline_id"),
        run_id=filter_id(request.run_id, "run_id"),
        namespace=plain_text(request.namespace, "namespace"),
        state=APPROVAL_STATE.filter_from_proto(request.state, "state"),
    )


def decision_from(request: pipeline_pb2.DecideApprovalRequest) -> Decision:
    """Read a vote.

    Raises:
        NotFound: the id is none that a gate can have.
        ValidationError: there is no vote, or what it is bound to cannot be.
    """
    approval_id = required_id(request.approval_id, "approval_id", "approval")
    if request.decision not in (pipeline_pb2.APPROVAL_DECISION_APPROVE, pipeline_pb2.APPROVAL_DECISION_REJECT):
        raise ValidationError.at("decision", "is required: APPROVE or REJECT")
    try:
        digest = bytes.fromhex(request.spec_digest)
    except ValueError:
        raise ValidationError.at("spec_digest", "is not a digest in hex") from None
    return Decision(
        approval_id,
        approved=request.decision == pipeline_pb2.APPROVAL_DECISION_APPROVE,
        comment=plain_text(request.comment, "comment", longest=LONGEST_COMMENT),
        spec_digest=digest,
        commit_sha=plain_text(request.commit_sha, "commit_sha", longest=64),
    )


def retry_scope(number: int) -> RetryScope:
    """Read what of a run is retried.

    Raises:
        ValidationError: the number is none that is known.
    """
    if number == pipeline_pb2.RETRY_SCOPE_ALL:
        return RetryScope.ALL
    if number in (pipeline_pb2.RETRY_SCOPE_UNSPECIFIED, pipeline_pb2.RETRY_SCOPE_FAILED):
        return RetryScope.FAILED
    raise ValidationError.at("scope", f"{number} is not a known value")


def approval_to(row: ApprovalRow) -> pipeline_pb2.ApprovalDetail:
    """Return a gate as it is shown."""
    return pipeline_pb2.ApprovalDetail(
        approval_id=str(row.id),
        run_id=str(row.run_id),
        pipeline_id=str(row.pipeline_id),
        pipeline_name=row.pipeline_name,
        namespace=row.namespace,
        stage=row.stage or "",
        job_name=row.job_name or "",
        state=APPROVAL_STATE.to_proto(row.state),
        needed=row.needed,
        approvers=row.approvers,
        separation=row.separation,
        votes=[
            pipeline_pb2.ApprovalVote(
                voter=vote.voter,
                decision=pipeline_pb2.APPROVAL_DECISION_APPROVE
                if vote.approved
                else pipeline_pb2.APPROVAL_DECISION_REJECT,
                comment=vote.comment,
                voted_at=unix_seconds(vote.voted_at),
            )
            for vote in row.votes
        ],
        created_at=unix_seconds(row.created_at),
        expires_at=unix_seconds(row.expires_at),
        decided_at=unix_seconds(row.decided_at),
        spec_digest=row.spec_digest.hex(),
        commit_sha=row.commit_sha,
        triggered_by=row.triggered_by,
    )


def keys_to(rows: Iterable[ClaimRow]) -> Iterator[pipeline_pb2.ConcurrencyKey]:
    """Return concurrency keys as they are shown; the rows come by key."""
    for (namespace, key), claims in groupby(rows, key=lambda row: (row.namespace, row.key)):
        message = pipeline_pb2.ConcurrencyKey(namespace=namespace, key=key)
        for row in claims:
            claim = (message.holders if row.place is not None else message.waiters).add()
            claim.job_run_id, claim.job_name = str(row.job_run_id), row.job_name
            claim.run_id, claim.pipeline_id = str(row.run_id), str(row.pipeline_id)
            claim.pipeline_name, claim.limit = row.pipeline_name, row.most
            claim.since = unix_seconds(row.since)
        yield message


def deployment_filter(request: pipeline_pb2.ListDeploymentsRequest) -> DeploymentFilter:
    """Read which deployments are wanted.

    Raises:
        ValidationError: an id is none.
    """
    return DeploymentFilter(
        pipeline_id=filter_id(request.pipeline_id, "pipeline_id"),
        run_id=filter_id(request.run_id, "run_id"),
        namespace=plain_text(request.namespace, "namespace"),
        target=plain_text(request.target, "target"),
    )


def deployment_to(row: DeploymentRow) -> pipeline_pb2.DeploymentDetail:
    """Return a deployment as it is shown."""
    return pipeline_pb2.DeploymentDetail(
        deployment_id=str(row.id),
        namespace=row.namespace,
        pipeline_id=str(row.pipeline_id),
        pipeline_name=row.pipeline_name,
        run_id=str(row.run_id),
        job_name=row.job_name,
        step_run_id=str(row.step_run_id),
        type=row.type,
        target=row.target,
        commit_sha=row.commit_sha,
        status=step_as_run(row.status),
        finished_at=unix_seconds(row.finished_at),
        triggered_by=row.triggered_by,
    )
