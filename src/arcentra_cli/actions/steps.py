"""`step ...`."""

import time

from rich.text import Text

from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_cli.config import Settings
from arcentra_cli.output import emit
from arcentra_cli.render import explain as render
from arcentra_cli.render import tables
from arcentra_cli.session import session


async def show(settings: Settings, step_run_id: str) -> None:
    """Show one step run."""
    async with session(settings) as client:
        request = steprun_pb2.GetStepRunRequest(step_run_id=step_run_id)
        detail = (await client.read(client.step_runs.GetStepRun, request)).step_run
    emit(settings.output, detail, lambda: tables.step_run(detail, time.time()))


async def explain(settings: Settings, step_run_id: str) -> None:
    """Show why a step run waits."""
    async with session(settings) as client:
        request = steprun_pb2.ExplainStepRunRequest(step_run_id=step_run_id)
        reply = await client.read(client.step_runs.ExplainStepRun, request)
    emit(settings.output, reply, lambda: render.explanation(reply, time.time()))


async def retry(settings: Settings, step_run_id: str) -> None:
    """Run a step again, as a new step run."""
    async with session(settings) as client:
        request = steprun_pb2.RetryStepRunRequest(step_run_id=step_run_id)
        reply = await client.write(client.step_runs.RetryStepRun, request)
    emit(settings.output, reply, lambda: Text(f"step run {reply.new_step_run_id} queued"))


async def cancel(settings: Settings, step_run_id: str, reason: str) -> None:
    """Cancel a step run."""
    async with session(settings) as client:
        request = steprun_pb2.CancelStepRunRequest(step_run_id=step_run_id, reason=reason)
        reply = await client.write(client.step_runs.CancelStepRun, request)
    emit(settings.output, reply, lambda: Text(f"cancel of step run {step_run_id} asked for"))
