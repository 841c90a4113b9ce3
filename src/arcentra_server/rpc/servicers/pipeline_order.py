"""What of the pipeline service concerns the order of runs: retries, gates, concurrency keys, deployments."""

from __future__ import annotations

from arcentra_api.pipeline.v1 import pipeline_pb2, pipeline_pb2_grpc
from arcentra_server.db.paging import Page
from arcentra_server.rpc.context import Context, caller
from arcentra_server.rpc.convert import order as convert
from arcentra_server.rpc.convert.fields import plain_text, required_id
from arcentra_server.services.approvals import ApprovalService
from arcentra_server.services.concurrency import ConcurrencyService
from arcentra_server.services.runs import RunService


class OrderMethods(pipeline_pb2_grpc.PipelineServiceServicer):
    """Translates; the services decide."""

    _runs: RunService
    _approvals: ApprovalService
    _concurrency: ConcurrencyService

    async def RetryPipelineRun(
        self, request: pipeline_pb2.RetryPipelineRunRequest, context: Context
    ) -> pipeline_pb2.RetryPipelineRunResponse:
        run_id = required_id(request.run_id, "run_id", "pipeline run")
        jobs = await self._runs.retry(run_id, convert.retry_scope(request.scope), caller().name)
        return pipeline_pb2.RetryPipelineRunResponse(run_id=str(run_id), job_run_ids=[str(job) for job in jobs])

    async def ListApprovals(
        self, request: pipeline_pb2.ListApprovalsRequest, context: Context
    ) -> pipeline_pb2.ListApprovalsResponse:
        page = Page.of(request.page, request.page_size, "", descending=True)
        rows, total = await self._approvals.list_page(convert.approval_filter(request), page)
        return pipeline_pb2.ListApprovalsResponse(approvals=[convert.approval_to(row) for row in rows], total=total)

    async def DecideApproval(
        self, request: pipeline_pb2.DecideApprovalRequest, context: Context
    ) -> pipeline_pb2.DecideApprovalResponse:
        row = await self._approvals.decide(convert.decision_from(request), caller())
        return pipeline_pb2.DecideApprovalResponse(approval=convert.approval_to(row))

    async def ListConcurrency(
        self, request: pipeline_pb2.ListConcurrencyRequest, context: Context
    ) -> pipeline_pb2.ListConcurrencyResponse:
        namespace, key = plain_text(request.namespace, "namespace"), plain_text(request.key, "key")
        rows = await self._concurrency.list_claims(namespace, key)
        return pipeline_pb2.ListConcurrencyResponse(keys=convert.keys_to(rows))

    async def ListDeployments(
        self, request: pipeline_pb2.ListDeploymentsRequest, context: Context
    ) -> pipeline_pb2.ListDeploymentsResponse:
        page = Page.of(request.page, request.page_size, "", descending=True)
        rows, total = await self._runs.list_deployments(convert.deployment_filter(request), page)
        return pipeline_pb2.ListDeploymentsResponse(
            deployments=[convert.deployment_to(row) for row in rows], total=total
        )
