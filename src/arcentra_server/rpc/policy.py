"""Who may call what: one table, checked against the registered methods when the server starts.

A method that is not listed cannot be called, and a server whose table is not the list of its methods does not start.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from arcentra_server.domain.identity import USER_ROLES, Role

PUBLIC: frozenset[Role] = frozenset()
"""Callable without a credential."""

_AGENT = frozenset({Role.AGENT})
_READ = frozenset({Role.VIEWER, Role.TRIGGER, Role.APPROVER, Role.MAINTAINER, Role.ADMIN})
_TRIGGER = frozenset({Role.TRIGGER, Role.MAINTAINER, Role.ADMIN})
_MAINTAIN = frozenset({Role.MAINTAINER, Role.ADMIN})
_DECIDE = frozenset({Role.APPROVER, Role.MAINTAINER, Role.ADMIN})
_FLEET = _READ | {Role.AGENT_ADMIN}
_FLEET_ADMIN = frozenset({Role.AGENT_ADMIN, Role.ADMIN})


def _rows(service: str, **methods: frozenset[Role]) -> dict[str, frozenset[Role]]:
    return {f"/{service}/{method}": roles for method, roles in methods.items()}


POLICY: dict[str, frozenset[Role]] = {
    **_rows(
        "agent.v1.AgentService",
        Heartbeat=_AGENT,
        # The credential of a registration is the token in its message.
        Register=PUBLIC,
        Unregister=_AGENT | _FLEET_ADMIN,
        FetchStepRun=_AGENT,
        ReportStepRunStatus=_AGENT,
        ReportJobRunStatus=_AGENT,
        CancelStepRun=_TRIGGER,
        CancelJobRun=_TRIGGER,
        RotateCredential=_AGENT,
        UpdateLabels=_AGENT,
        Connect=_AGENT,
    ),
    **_rows("gateway.v1.GatewayService", PushLogs=_AGENT, PushEvents=_AGENT),
    **_rows(
        "pipeline.v1.PipelineService",
        CreatePipeline=_MAINTAIN,
        UpdatePipeline=_MAINTAIN,
        GetPipeline=_READ,
        ListPipelines=_READ,
        DeletePipeline=_MAINTAIN,
        ApplyPipeline=_MAINTAIN,
        TriggerPipeline=_TRIGGER,
        StopPipeline=_TRIGGER,
        GetPipelineRun=_READ,
        ListPipelineRuns=_READ,
        PausePipeline=_TRIGGER,
        ResumePipeline=_TRIGGER,
        ValidatePipeline=_READ,
        GetPipelineSchema=_READ,
        RetryPipelineRun=_TRIGGER,
        ListApprovals=_READ,
        DecideApproval=_DECIDE,
        ListTriggers=_READ,
        ListTriggerEvents=_READ,
        ListConcurrency=_READ,
        ListDeployments=_READ,
        ListNotifications=_READ,
    ),
    **_rows(
        "steprun.v1.StepRunService",
        CreateStepRun=_MAINTAIN,
        GetStepRun=_READ,
        ListStepRuns=_READ,
        UpdateStepRun=_MAINTAIN,
        DeleteStepRun=_MAINTAIN,
        CancelStepRun=_TRIGGER,
        RetryStepRun=_TRIGGER,
        ExplainStepRun=_READ | {Role.AGENT_ADMIN},
        ListStepRunArtifacts=_READ,
    ),
    **_rows(
        "stream.v1.StreamService",
        StreamStepRunStatus=_READ,
        StreamJobStatus=_READ,
        StreamPipelineStatus=_READ,
        StreamStepRunLogs=_READ,
        StreamAgentStatus=_FLEET,
        StreamEvents=_READ,
        AgentChannel=_AGENT,
    ),
    **_rows(
        "admin.v1.AdminService",
        WhoAmI=frozenset(USER_ROLES) | _AGENT,
        ListAgents=_FLEET,
        GetAgent=_FLEET,
        ApproveAgent=_FLEET_ADMIN,
        DrainAgent=_FLEET_ADMIN,
        ResumeAgent=_FLEET_ADMIN,
        DisableAgent=_FLEET_ADMIN,
        EnableAgent=_FLEET_ADMIN,
        SetAgentLabels=_FLEET_ADMIN,
        SetSecret=_MAINTAIN,
        ListSecrets=_MAINTAIN,
        DeleteSecret=_MAINTAIN,
        CreateHook=_MAINTAIN,
        ListHooks=_MAINTAIN,
        RotateHookSecret=_MAINTAIN,
        DeleteHook=_MAINTAIN,
    ),
    # What load balancers and gRPC clients ask before they have a credential; it tells the contract and nothing more.
    **_rows("grpc.health.v1.Health", Check=PUBLIC, Watch=PUBLIC, List=PUBLIC),
    **_rows("grpc.reflection.v1alpha.ServerReflection", ServerReflectionInfo=PUBLIC),
}

WHILE_PENDING = frozenset(
    f"/{method}"
    for method in (
        "agent.v1.AgentService/Heartbeat",
        "agent.v1.AgentService/RotateCredential",
        "agent.v1.AgentService/Unregister",
        "admin.v1.AdminService/WhoAmI",
    )
)
"""What an agent may call that waits for approval, besides Register, which is for anybody (security.md, S10)."""


def check_policy(registered: Iterable[str], policy: Collection[str] = POLICY) -> None:
    """Compare the registered methods with the table.

    Raises:
        RuntimeError: a method has no row, or a row no method.
    """
    methods = set(registered)
    unlisted, stale = sorted(methods - set(policy)), sorted(set(policy) - methods)
    if unlisted or stale:
        raise RuntimeError(f"rpc/policy.py: methods without a row {unlisted}, rows without a method {stale}")


def may_change_pipelines(role: Role) -> bool:
    """Answer whether callers of a role may change the definition of a pipeline."""
    return role in POLICY["/pipeline.v1.PipelineService/UpdatePipeline"]


def refusal(role: Role, allowed: Collection[Role]) -> str:
    """Return what to say to a caller whose role may not call a method: which roles may."""
    *others, last = (one.value for one in Role if one in allowed)
    needed = f"{', '.join(others)} or {last}" if others else last
    return f"the role {role.value} may not do this: it takes {needed}"
