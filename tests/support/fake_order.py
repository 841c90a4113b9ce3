"""The part of the fake server that concerns the order of runs: gates, retries, concurrency keys, deployments."""

from __future__ import annotations

from typing import Any

from grpc import StatusCode

from arcentra_api.pipeline.v1 import pipeline_pb2

VOTER = "ada"
DIGEST = "ab" * 32
COMMIT = "1a2b3c4d5e6f" + "0" * 28
_ENDS = {
    pipeline_pb2.APPROVAL_DECISION_APPROVE: pipeline_pb2.APPROVAL_STATE_APPROVED,
    pipeline_pb2.APPROVAL_DECISION_REJECT: pipeline_pb2.APPROVAL_STATE_REJECTED,
}


class FakeOrder:
    """What is there, and the methods that serve it. Tests put things into the lists."""

    def __init__(self) -> None:
        self.gates: list[pipeline_pb2.ApprovalDetail] = []
        self.keys: list[pipeline_pb2.ConcurrencyKey] = []
        self.deployments: list[pipeline_pb2.DeploymentDetail] = []
        # Job runs that a retry answers with, by the scope that was asked for.
        self.retried: dict[int, list[str]] = {}
        self.served: dict[str, Any] = {
            "ListApprovals": self.list_approvals,
            "DecideApproval": self.decide_approval,
            "ListConcurrency": self.list_concurrency,
            "ListDeployments": self.list_deployments,
            "RetryPipelineRun": self.retry_pipeline_run,
        }

    def add_gate(self, run: pipeline_pb2.PipelineRunDetail, **fields: Any) -> pipeline_pb2.ApprovalDetail:
        """Add a pending gate of a run, before the stage `release` unless the fields say otherwise."""
        number = len(self.gates)
        place = {} if fields.get("job_name") else {"stage": "release"}
        gate = pipeline_pb2.ApprovalDetail(
            **{
                "approval_id": f"{number:08x}-0000-7000-8000-000000000000",
                "run_id": run.run_id,
                "pipeline_id": run.pipeline_id,
                "pipeline_name": run.pipeline_name,
                "namespace": run.namespace,
                "state": pipeline_pb2.APPROVAL_STATE_PENDING,
                "needed": 1,
                "spec_digest": DIGEST,
                "commit_sha": COMMIT,
                **place,
                **fields,
            }
        )
        self.gates.append(gate)
        run.pending_approvals.append(gate)
        return gate

    async def list_approvals(
        self, request: pipeline_pb2.ListApprovalsRequest, _context: Any
    ) -> pipeline_pb2.ListApprovalsResponse:
        found = [
            gate
            for gate in reversed(self.gates)
            if request.run_id in {"", gate.run_id}
            and request.pipeline_id in {"", gate.pipeline_id}
            and request.namespace in {"", gate.namespace}
            and request.state in {0, gate.state}
        ]
        return pipeline_pb2.ListApprovalsResponse(approvals=_page(found, request), total=len(found))

    async def decide_approval(self, request: pipeline_pb2.DecideApprovalRequest, context: Any) -> Any:
        """Take a vote by the rules of the real server: one approval is enough."""
        gate = next(gate for gate in self.gates if gate.approval_id == request.approval_id)
        if gate.approvers and VOTER not in gate.approvers:
            await context.abort(StatusCode.PERMISSION_DENIED, "not an approver: this gate names who may decide it")
        if any(vote.voter == VOTER and vote.decision == request.decision for vote in gate.votes):
            return pipeline_pb2.DecideApprovalResponse(approval=gate)
        if gate.state != pipeline_pb2.APPROVAL_STATE_PENDING:
            await context.abort(StatusCode.FAILED_PRECONDITION, "approval already decided")
        gate.votes.add(voter=VOTER, decision=request.decision, comment=request.comment, voted_at=1_800_000_000)
        if request.decision == pipeline_pb2.APPROVAL_DECISION_REJECT or len(gate.votes) >= gate.needed:
            gate.state = _ENDS[request.decision]
        return pipeline_pb2.DecideApprovalResponse(approval=gate)

    async def list_concurrency(
        self, request: pipeline_pb2.ListConcurrencyRequest, _context: Any
    ) -> pipeline_pb2.ListConcurrencyResponse:
        found = [key for key in self.keys if request.namespace in {"", key.namespace} and request.key in {"", key.key}]
        return pipeline_pb2.ListConcurrencyResponse(keys=found)

    async def list_deployments(
        self, request: pipeline_pb2.ListDeploymentsRequest, _context: Any
    ) -> pipeline_pb2.ListDeploymentsResponse:
        found = [
            one
            for one in self.deployments
            if request.pipeline_id in {"", one.pipeline_id}
            and request.target in {"", one.target}
            and request.run_id in {"", one.run_id}
            and request.namespace in {"", one.namespace}
        ]
        return pipeline_pb2.ListDeploymentsResponse(deployments=_page(found, request), total=len(found))

    async def retry_pipeline_run(self, request: pipeline_pb2.RetryPipelineRunRequest, context: Any) -> Any:
        jobs = self.retried.get(request.scope)
        if jobs is None:
            await context.abort(StatusCode.FAILED_PRECONDITION, "the run has not ended: stop it, or retry a job of it")
        return pipeline_pb2.RetryPipelineRunResponse(run_id=request.run_id, job_run_ids=jobs)


def _page(found: list[Any], request: Any) -> list[Any]:
    size = request.page_size or 20
    begin = (max(request.page, 1) - 1) * size
    return found[begin : begin + size]
