"""AgentService: register, report, fetch, and the push channel."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from uuid import UUID

from arcentra_api.agent.v1 import agent_pb2, agent_pb2_grpc
from arcentra_server.domain.errors import Forbidden, NotAdmitted, Unauthenticated, ValidationError
from arcentra_server.domain.identity import Role
from arcentra_server.domain.ids import parse_id
from arcentra_server.rpc.connection import Connection
from arcentra_server.rpc.context import Context, address_of, caller, calling_agent, existing_id
from arcentra_server.rpc.convert import agent as convert
from arcentra_server.rpc.convert.dispatch import complete
from arcentra_server.rpc.convert.enums import RUN_STATUS
from arcentra_server.rpc.convert.fields import plain_text, unix_seconds
from arcentra_server.rpc.parts import AgentParts
from arcentra_server.services.agents import REVOKED, AgentFacts, Registered
from arcentra_server.services.auth import INVALID, AuthService
from arcentra_server.services.runs import RunService
from arcentra_server.services.step_runs import StepRunService

LONGEST_WAIT = 60
LARGEST_FETCH = 100
LONGEST_REASON = 1_024  # characters


class AgentServicer(agent_pb2_grpc.AgentServiceServicer):
    """See the module."""

    def __init__(self, parts: AgentParts, auth: AuthService, runs: RunService, step_runs: StepRunService) -> None:
        self._parts = parts
        self._auth = auth
        self._runs = runs
        self._step_runs = step_runs

    async def Heartbeat(self, request: agent_pb2.HeartbeatRequest, context: Context) -> agent_pb2.HeartbeatResponse:
        agent_id = calling_agent(request.agent_id)
        metrics = convert.clean_metrics(request.metrics) if request.metrics else None
        if await self._parts.agents.heartbeat(agent_id, None, metrics, draining=request.draining) is None:
            raise Unauthenticated(REVOKED)
        briefing, cancels = await self._parts.agents.brief_without_channel(agent_id, caller().token_id)
        return agent_pb2.HeartbeatResponse(
            success=True,
            message=briefing.standing.refusal or "ok",
            timestamp=int(time.time()),
            task_cancels=convert.cancels_to(cancels),
            settings=convert.settings_to(self._parts.settings.at(briefing)),
        )

    async def Register(self, request: agent_pb2.RegisterRequest, context: Context) -> agent_pb2.RegisterResponse:
        facts = convert.facts_from(request, address_of(context))
        if request.registration_token and not request.token:
            done = await self._join(request.registration_token, facts, address_of(context))
        else:
            agent_id, token = await self._known_agent(request, context)
            done = await self._parts.agents.register_again(agent_id, token, facts)
        return agent_pb2.RegisterResponse(
            success=True,
            message="registered",
            agent_id=str(done.agent_id),
            heartbeat_interval=self._parts.settings.heartbeat_ms,
            labels=dict(done.labels),
            auth_token=done.token,
            pending_approval=done.pending,
            lease_duration=self._parts.settings.lease_ms,
            token_expires_at=unix_seconds(done.expires_at),
        )

    async def Unregister(self, request: agent_pb2.UnregisterRequest, context: Context) -> agent_pb2.UnregisterResponse:
        if caller().role is Role.AGENT:
            agent_id = calling_agent(request.agent_id)
        else:
            agent_id = existing_id(request.agent_id, "agent")
        reason = plain_text(request.reason, "reason", longest=LONGEST_REASON)
        await self._parts.agents.unregister(agent_id, reason)
        self._auth.forget_agent(agent_id)
        self._parts.channels.disconnect(agent_id)
        return agent_pb2.UnregisterResponse(success=True, message="unregistered")

    async def FetchStepRun(
        self, request: agent_pb2.FetchStepRunRequest, context: Context
    ) -> agent_pb2.FetchStepRunResponse:
        agent_id = calling_agent(request.agent_id)
        if not 0 <= request.wait_seconds <= LONGEST_WAIT:
            raise ValidationError.at("wait_seconds", f"is 0 to {LONGEST_WAIT}")
        if not 0 <= request.max_step_runs <= LARGEST_FETCH:
            raise ValidationError.at("max_step_runs", f"is 0 to {LARGEST_FETCH}")
        standing = await self._parts.agents.heartbeat(agent_id)
        if standing is None:
            raise Unauthenticated(REVOKED)
        if standing.refusal:
            raise NotAdmitted(standing.refusal)
        found = await self._parts.dispatch.fetch(agent_id, request.max_step_runs or 1, request.wait_seconds)
        return agent_pb2.FetchStepRunResponse(
            success=True, message=f"{len(found)} step runs", step_runs=[complete(dispatch) for dispatch in found]
        )

    async def ReportStepRunStatus(
        self, request: agent_pb2.ReportStepRunStatusRequest, context: Context
    ) -> agent_pb2.ReportStepRunStatusResponse:
        report = convert.report_from(request, calling_agent(request.agent_id), dict(request.metrics))
        [refusal] = await self._parts.reports.submit([report])
        if refusal is not None:
            raise refusal
        return agent_pb2.ReportStepRunStatusResponse(success=True, message="accepted")

    async def ReportJobRunStatus(
        self, request: agent_pb2.ReportJobRunStatusRequest, context: Context
    ) -> agent_pb2.ReportJobRunStatusResponse:
        agent_id = calling_agent(request.agent_id)
        status = RUN_STATUS.from_proto(request.status, "status")
        job_id = existing_id(request.job_run_id, "job run")
        report = convert.job_report_from(request, agent_id, job_id, status)
        await self._runs.report_job(report)
        return agent_pb2.ReportJobRunStatusResponse(success=True, message="accepted")

    async def CancelStepRun(
        self, request: agent_pb2.CancelStepRunRequest, context: Context
    ) -> agent_pb2.CancelStepRunResponse:
        reason = plain_text(request.reason, "reason", longest=LONGEST_REASON)
        await self._step_runs.cancel(existing_id(request.step_run_id, "step run"), reason)
        return agent_pb2.CancelStepRunResponse(success=True, message="cancellation accepted")

    async def CancelJobRun(
        self, request: agent_pb2.CancelJobRunRequest, context: Context
    ) -> agent_pb2.CancelJobRunResponse:
        reason = plain_text(request.reason, "reason", longest=LONGEST_REASON)
        await self._runs.cancel_job(existing_id(request.job_run_id, "job run"), reason)
        return agent_pb2.CancelJobRunResponse(success=True, message="cancellation accepted")

    async def RotateCredential(
        self, request: agent_pb2.RotateCredentialRequest, context: Context
    ) -> agent_pb2.RotateCredentialResponse:
        agent_id = calling_agent(request.agent_id)
        rotated = await self._parts.agents.rotate_credential(agent_id, caller().token_id)
        self._auth.forget_agent(agent_id)
        return agent_pb2.RotateCredentialResponse(
            auth_token=rotated.token,
            token_expires_at=unix_seconds(rotated.expires_at),
            old_token_expires_at=unix_seconds(rotated.old_expires_at),
        )

    async def UpdateLabels(
        self, request: agent_pb2.UpdateLabelsRequest, context: Context
    ) -> agent_pb2.UpdateLabelsResponse:
        agent_id = calling_agent(request.agent_id)
        if faults := convert.check_labels(request.labels):
            raise ValidationError(faults)
        labels = await self._parts.agents.update_labels(agent_id, dict(request.labels), merge=request.merge)
        return agent_pb2.UpdateLabelsResponse(success=True, message="updated", labels=dict(labels))

    async def Connect(  # type: ignore[override]  # it writes to the context: its writer is a task of its own
        self, request_iterator: AsyncIterator[agent_pb2.ConnectRequest], context: Context
    ) -> None:
        connection = Connection(self._parts, calling_agent(""), caller().token_id, context.write)
        await connection.run(request_iterator)

    async def _join(self, registration_token: str, facts: AgentFacts, address: str) -> Registered:
        self._auth.throttle(address)
        try:
            return await self._parts.agents.register(registration_token, facts)
        except Unauthenticated:
            self._auth.count_failure(address)
            raise

    async def _known_agent(self, request: agent_pb2.RegisterRequest, context: Context) -> tuple[UUID, str]:
        """Answer which agent registers again, by the token of its message or, failing that, of the call."""
        bearer = dict(context.invocation_metadata() or ()).get("authorization", "")
        token = request.token or str(bearer).removeprefix("Bearer ")
        if not token:
            raise Unauthenticated(INVALID)
        known = await self._auth.authenticate(token, address_of(context))
        if known.agent_id is None:
            raise Forbidden("only an agent's token can register an agent again")
        if request.agent_id and parse_id(request.agent_id) != known.agent_id:
            raise Forbidden("agent_id is not that of the token")
        return known.agent_id, token
