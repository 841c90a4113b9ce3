"""What clients do while faults go on. Every call is repeated until it is answered, and noted."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from tests.faults.field import Field

KEY = "one-at-a-time"


def _steps(*scripts: str) -> list[dict[str, Any]]:
    return [
        {"name": f"step-{number}", "uses": "shell", "args": {"script": script}} for number, script in enumerate(scripts)
    ]


# `internal`: what an agent says of a step whose process it lost itself.
AGAIN = {"max_attempts": 10, "on": ["agent_lost", "internal"]}
# `sim SECONDS [EXIT_CODE]` is what simulated agents understand; `any` leaves it to chance.
PIPELINES: dict[str, dict[str, Any]] = {
    "plain": {"jobs": [{"name": name, "steps": _steps("any", "any")} for name in ("a", "b")]},
    "patient": {"jobs": [{"name": name, "retry": AGAIN, "steps": _steps("any", "any")} for name in ("a", "b")]},
    "keyed": {"jobs": [{"name": "one", "concurrency": KEY, "retry": AGAIN, "steps": _steps("any")}]},
    "gated": {
        "stages": [
            {"name": "before", "jobs": [{"name": "first", "retry": AGAIN, "steps": _steps("any")}]},
            {
                "name": "behind",
                "approval": {"needed": 1},
                "jobs": [{"name": "second", "retry": AGAIN, "steps": _steps("any")}],
            },
        ]
    },
    "failing": {"jobs": [{"name": "one", "steps": _steps("sim 0.05 1", "any")}]},
    "long": {"jobs": [{"name": "one", "steps": _steps("sim 600")}]},
    "lasting": {"jobs": [{"name": "one", "retry": AGAIN, "steps": _steps("sim 3", "sim 0.1")}]},
}
STEPS = {"plain": 4, "patient": 4, "keyed": 1, "gated": 2, "failing": 2, "long": 1, "lasting": 2}


_ANSWERED_WITHIN = 300.0
_RUNNING_ON = """
    SELECT count(*) FROM step_runs s JOIN agents a ON a.id = s.agent_id WHERE s.status = 'RUNNING' AND a.name LIKE $1
"""
_WAITING = "SELECT count(*) FROM step_queue"
SETTLED = 0.3  # after a fault, until what was on its way has come


class Workload:
    """See the module. `prepare` first. `patience`: seconds within which each call is answered."""

    def __init__(self, field: Field, *, patience: float = _ANSWERED_WITHIN) -> None:
        self.field = field
        self._patience = patience
        self._pipelines: dict[str, str] = {}
        self._numbers = itertools.count(1)

    async def prepare(self, **more: dict[str, Any]) -> None:
        """Create the pipelines."""
        for name, definition in {**PIPELINES, **more}.items():
            request = pipeline_pb2.ApplyPipelineRequest(document=json.dumps({"name": name, **definition}))
            answer = await self._insist("apply", self.field.client.pipeline.ApplyPipeline, request)
            self._pipelines[name] = answer.pipeline_id

    def pipeline(self, name: str) -> str:
        return self._pipelines[name]

    async def trigger(self, name: str) -> str:
        """Start a run; return its id."""
        request = pipeline_pb2.TriggerPipelineRequest(
            pipeline_id=self._pipelines[name], request_id=f"request-{next(self._numbers)}"
        )
        answer = await self._insist(
            "trigger", self.field.client.pipeline.TriggerPipeline, request, subject_of=lambda reply: str(reply.run_id)
        )
        return str(answer.run_id)

    async def feed(self, steps: int, *names: str, pause: float = 0.0) -> list[str]:
        """Start runs of these pipelines by turns until they have so many steps; those at a gate are approved."""
        runs: list[str] = []
        given = 0
        for name in itertools.cycle(names):
            if given >= steps:
                return runs
            runs.append(await self.trigger(name))
            given += STEPS[name]
            if pause:
                await asyncio.sleep(self.field.chance.uniform(0, 2 * pause))
        return runs

    async def approve(self, run_id: str) -> None:
        """Wait for the gate of a run, and approve it."""
        pipeline = self.field.client.pipeline
        wanted = pipeline_pb2.ListApprovalsRequest(run_id=run_id, state=pipeline_pb2.APPROVAL_STATE_PENDING)

        async def waiting() -> Any:
            return (await self._insist("list_approvals", pipeline.ListApprovals, wanted)).approvals

        gate = (await self.field.until(waiting))[0].approval_id
        request = pipeline_pb2.DecideApprovalRequest(
            approval_id=gate, decision=pipeline_pb2.APPROVAL_DECISION_APPROVE, comment="in order"
        )
        await self._insist("approve", pipeline.DecideApproval, request, gate)

    async def stop(self, run_id: str) -> None:
        request = pipeline_pb2.StopPipelineRequest(run_id=run_id, reason="not wanted")
        await self._insist("stop_run", self.field.client.pipeline.StopPipeline, request, run_id)

    async def cancel_step(self, step_run_id: str) -> None:
        request = steprun_pb2.CancelStepRunRequest(step_run_id=step_run_id, reason="not wanted")
        await self._insist("cancel_step", self.field.client.step_run.CancelStepRun, request, step_run_id)

    async def retry_run(self, run_id: str) -> None:
        request = pipeline_pb2.RetryPipelineRunRequest(run_id=run_id)
        call = self.field.client.pipeline.RetryPipelineRun
        await self._insist("retry_run", call, request, run_id, may_be_refused=True)

    async def retry_step(self, step_run_id: str) -> None:
        request = steprun_pb2.RetryStepRunRequest(step_run_id=step_run_id)
        call = self.field.client.step_run.RetryStepRun
        await self._insist("retry_step", call, request, step_run_id, may_be_refused=True)

    async def run(self, run_id: str) -> pipeline_pb2.PipelineRunDetail:
        request = pipeline_pb2.GetPipelineRunRequest(run_id=run_id)
        answer = await self._insist("get", self.field.client.pipeline.GetPipelineRun, request, run_id)
        found: pipeline_pb2.PipelineRunDetail = answer.run
        return found

    async def running(self, run_id: str) -> pipeline_pb2.PipelineRunDetail:
        """Wait until a step of a run runs."""

        async def seen() -> pipeline_pb2.PipelineRunDetail | None:
            run = await self.run(run_id)
            steps = [step for job in run.job_runs for step in job.step_runs]
            return run if any(step.status == pipeline_pb2.PIPELINE_STATUS_RUNNING for step in steps) else None

        found: pipeline_pb2.PipelineRunDetail = await self.field.until(seen)
        return found

    async def running_on(self, agents: str) -> int:
        """Return how many steps run on agents whose names begin so."""
        return int(str(await self.field.value(_RUNNING_ON, agents + "-%")))

    async def busy(self, agents: str, number: int) -> None:
        """Wait until so many steps run on agents whose names begin so."""

        async def enough() -> bool:
            return await self.running_on(agents) >= number

        await self.field.until(enough)

    async def occupy(self, agents: str, number: int) -> list[str]:
        """Start runs until so many steps run at once on agents whose names begin so; return the runs."""
        runs: list[str] = []

        async def enough() -> bool:
            if await self.running_on(agents) >= number:
                return True
            if not await self.field.value(_WAITING):
                runs.append(await self.trigger("lasting"))
            return False

        await self.field.until(enough)
        return runs

    async def strike(
        self, agents: str, number: int, fault: Callable[[], Any], undo: Callable[[], Any] = lambda: None
    ) -> list[str]:
        """Put agents to a fault while so many steps run on them, again when they had ended just before; return the runs."""
        runs: list[str] = []
        while True:
            runs += await self.occupy(agents, number)
            fault()
            await asyncio.sleep(SETTLED)
            if await self.running_on(agents):
                return runs
            undo()

    async def ended(self, *run_ids: str) -> list[pipeline_pb2.PipelineRunDetail]:
        """Wait until runs have ended."""

        async def over(run_id: str) -> pipeline_pb2.PipelineRunDetail | None:
            run = await self.run(run_id)
            return run if run.end_time else None

        return [await self.field.until(partial(over, run_id)) for run_id in run_ids]

    async def _insist(self, what: str, call: Any, request: Any, subject: str = "", **more: Any) -> Any:
        metadata = self.field.client.metadata
        return await self.field.history.insist(
            what, lambda: call(request, metadata=metadata), subject, within=self._patience, **more
        )
