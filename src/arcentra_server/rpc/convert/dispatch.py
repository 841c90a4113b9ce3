"""The stored wire form of a step run: built when it is made, completed with its lease when it is dispatched.

What differs between attempts (ids of the step run and the lease, token, attempt) is not stored: a retry copies the
stored form as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from arcentra_api.agent.v1 import agent_pb2
from arcentra_server.domain.durations import format_duration
from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.instantiate import NewStep
from arcentra_server.rpc.convert.definition import write_selector


def encode(step: NewStep) -> bytes:
    """Return the stored wire form of a step run."""
    job_id = str(step.job_id)
    run = agent_pb2.StepRun(
        pipeline_id=str(step.pipeline_id),
        pipeline_run_id=str(step.run_id),
        job_id=job_id,
        job_name=step.job_name,
        step_name=step.name,
        step_index=step.index,
        uses=step.uses,
        action=step.action,
        env=step.env,
        # On the wire, empty is the workspace of the job.
        workspace="" if step.workspace == job_id else step.workspace,
        timeout=format_duration(step.timeout_ms) if step.timeout_ms is not None else "",
        continue_on_error=step.continue_on_error,
        run_on_agent=step.run_on_agent,
    )
    if step.args:
        run.args.update(step.args)
    if step.selector.terms or step.own_selector:
        write_selector(run.agent_selector, step.selector)
    return run.SerializeToString()


def edit(dispatch: bytes, env: Mapping[str, str], timeout_ms: int | None) -> bytes:
    """Return a stored wire form with these environment variables set over its own and, if not None, a time limit."""
    run = spec_of(dispatch)
    run.env.update(env)
    if timeout_ms is not None:
        run.timeout = format_duration(timeout_ms)
    return run.SerializeToString()


def complete(dispatch: Dispatch) -> agent_pb2.StepRun:
    """Return a leased step run as its agent gets it."""
    run = agent_pb2.StepRun.FromString(dispatch.payload)
    run.step_run_id = str(dispatch.step_run_id)
    run.command_id = str(dispatch.lease_id)
    run.lease_token = dispatch.lease_token
    run.attempt = dispatch.attempt
    return run


def spec_of(payload: bytes) -> agent_pb2.StepRun:
    """Return what a stored wire form says of its step run, to show it."""
    return agent_pb2.StepRun.FromString(payload)
