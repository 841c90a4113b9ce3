"""Explanations of waiting step runs, out."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_server.rpc.convert.enums import STEP_STATUS
from arcentra_server.scheduling.explain import Hindrance, Verdict
from arcentra_server.services.explain import Blocking, Explanation


def explanation_to(found: Explanation) -> steprun_pb2.ExplainStepRunResponse:
    """Return an explanation as it is sent."""
    reason = found.step.waiting_reason
    return steprun_pb2.ExplainStepRunResponse(
        step_run_id=str(found.step.id),
        status=STEP_STATUS.to_proto(found.step.status),
        waiting_reason=reason,
        summary=found.summary,
        waiting_since=_seconds(found.since) if reason else 0,
        queue_rank=found.rank,
        queue_length=found.length,
        priority=found.priority,
        conditions=found.conditions,
        blockers=[_blocker_to(one) for one in found.blocking],
        agents=[_verdict_to(one) for one in found.verdicts],
        scheduling_reason=found.reason.value if found.reason else "",
    )


def _blocker_to(one: Blocking) -> steprun_pb2.Blocker:
    return steprun_pb2.Blocker(
        kind=one.kind,
        detail=one.detail,
        run_id=_text(one.run_id),
        job_run_id=_text(one.job_run_id),
        until=_seconds(one.until),
    )


def _verdict_to(one: Verdict) -> steprun_pb2.AgentVerdict:
    obstacles = [_obstacle_to(hindrance) for hindrance in one.hindrances]
    return steprun_pb2.AgentVerdict(
        agent_id=str(one.agent_id), name=one.name, can_take=one.can_take, obstacles=obstacles
    )


def _obstacle_to(one: Hindrance) -> steprun_pb2.Obstacle:
    return steprun_pb2.Obstacle(
        reason=one.obstacle.value,
        detail=one.detail,
        label=one.label,
        wanted=one.wanted,
        had=one.had or "",
        since=int(one.since or 0),
    )


def _text(identity: UUID | None) -> str:
    return str(identity) if identity else ""


def _seconds(moment: datetime | None) -> int:
    return int(moment.timestamp()) if moment else 0
