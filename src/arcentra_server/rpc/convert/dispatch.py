"""The stored wire form of a step run: built when it is made, completed with its lease when it is dispatched.

What differs between attempts (ids of the step run and the lease, token, attempt) is not stored: a retry copies the
stored form as it is. Values of secrets are never stored: they take the place of their marks when it is dispatched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf import struct_pb2

from arcentra_api.agent.v1 import agent_pb2
from arcentra_server.domain.durations import format_duration
from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.expressions import Rendered, fill_secrets, marks_in
from arcentra_server.domain.instantiate import COMMIT_VARIABLE, NewStep
from arcentra_server.rpc.convert.definition_out import write_selector
from arcentra_server.rpc.convert.struct_fields import plain_struct

_LEASE = 256  # bytes, at most, of what `complete` says of the lease, and of the commit
_SECRET = 16  # bytes, at most, around the name and the value of a secret


class WireForm:
    """The wire form as `domain/ports.py` wants it. It has no state."""

    def encode(self, step: NewStep) -> bytes:
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
            image=step.image,
            artifacts=[
                agent_pb2.ArtifactConfig(
                    name=artifact.name,
                    path=artifact.path,
                    destination=artifact.destination,
                    expire=artifact.expire_days is not None,
                    expire_days=artifact.expire_days or 0,
                )
                for artifact in step.artifacts
            ],
            continue_on_error=step.continue_on_error,
            when=step.condition,
            run_on_agent=step.run_on_agent,
        )
        if step.args:
            run.args.update(step.args)
        if step.selector.terms or step.own_selector:
            write_selector(run.agent_selector, step.selector)
        return run.SerializeToString()

    def env(self, dispatch: bytes) -> Mapping[str, str]:
        """Return its environment variables."""
        return dict(spec_of(dispatch).env)

    def args(self, dispatch: bytes) -> Mapping[str, object]:
        """Return the arguments of its plugin."""
        return plain_struct(spec_of(dispatch).args)

    def render(self, dispatch: bytes, rendered: Rendered) -> bytes:
        """Return it with what was evaluated when its turn came."""
        run = spec_of(dispatch)
        run.env.update(rendered.env)
        if rendered.args is not None:
            run.args.Clear()
            run.args.update(rendered.args)
        if rendered.image is not None:
            run.image = rendered.image
        return run.SerializeToString()

    def edit(self, dispatch: bytes, env: Mapping[str, str], timeout_ms: int | None) -> bytes:
        """Return it with these environment variables set over its own and, if not None, a time limit."""
        run = spec_of(dispatch)
        run.env.update(env)
        if timeout_ms is not None:
            run.timeout = format_duration(timeout_ms)
        return run.SerializeToString()

    def size(self, dispatch: Dispatch) -> int:
        """Return how many bytes a step run has when it is sent, with its lease and its secrets; see `sent_size`."""
        return sent_size(dispatch)


def sent_size(dispatch: Dispatch) -> int:
    """Return how many bytes `complete` makes of a dispatch, or a few more, without making them.

    Marks are counted with what takes their place: that is room enough for the longer lengths of what is around it.
    """
    size = len(dispatch.payload) + _LEASE
    if not dispatch.secrets:
        return size
    values = {name: len(value.encode()) for name, value in dispatch.values.items()}
    size += sum(len(name.encode()) + len(value.encode()) + _SECRET for name, value in dispatch.secrets.items())
    return size + sum(values.get(name, 0) for name in marks_in(dispatch.payload))


def complete(dispatch: Dispatch, run: agent_pb2.StepRun | None = None) -> agent_pb2.StepRun:
    """Return a leased step run as its agent gets it; in `run`, which is empty, if it has a place already."""
    run = agent_pb2.StepRun() if run is None else run
    run.MergeFromString(dispatch.payload)
    run.step_run_id = str(dispatch.step_run_id)
    run.command_id = str(dispatch.lease_id)
    run.lease_token = dispatch.lease_token
    run.attempt = dispatch.attempt
    if dispatch.commit and run.env.get(COMMIT_VARIABLE) == "":
        run.env[COMMIT_VARIABLE] = dispatch.commit
    if dispatch.secrets:
        run.secrets.update(dispatch.secrets)
        _fill(run, dispatch.values)
    return run


def shown(payload: bytes, secrets: Iterable[str]) -> agent_pb2.StepRun:
    """Return a stored wire form to show it: names of secrets, as they were written, in the place of their marks."""
    run = spec_of(payload)
    _fill(run, {name: f"${{{{ secrets.{name} }}}}" for name in secrets})
    return run


def spec_of(payload: bytes) -> agent_pb2.StepRun:
    """Return what a stored wire form says of its step run, to show it."""
    return agent_pb2.StepRun.FromString(payload)


def _fill(run: agent_pb2.StepRun, values: Mapping[str, str]) -> None:
    for name in list(run.env):  # a map in which values are set while it is gone through passes some over
        run.env[name] = fill_secrets(run.env[name], values)
    _fill_struct(run.args, values)
    run.image = fill_secrets(run.image, values)


def _fill_struct(struct: struct_pb2.Struct, values: Mapping[str, str]) -> None:
    for value in struct.fields.values():
        _fill_value(value, values)


def _fill_value(value: struct_pb2.Value, values: Mapping[str, str]) -> None:
    match value.WhichOneof("kind"):
        case "string_value":
            value.string_value = fill_secrets(value.string_value, values)
        case "struct_value":
            _fill_struct(value.struct_value, values)
        case "list_value":
            for item in value.list_value.values:
                _fill_value(item, values)
