"""A pipeline as its definition has it, in short: what starts it, its gates, its jobs and their rules."""

from collections.abc import Iterator

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from rich.console import Group, RenderableType
from rich.text import Text

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.render import words
from arcentra_cli.render.parts import columns, mapping, pairs
from arcentra_cli.render.tables import pipeline_state
from arcentra_cli.render.triggers import event_rules
from arcentra_cli.terminal import one_line


def pipeline(detail: pipeline_pb2.PipelineDetail) -> RenderableType:
    """One pipeline: what it is, then its jobs."""
    head = pairs(
        [
            ("Pipeline", f"{detail.namespace}/{detail.name}"),
            ("Id", detail.pipeline_id),
            ("Description", detail.description.splitlines()),
            ("Status", pipeline_state(detail)),
            ("Definition", f"version {detail.spec_version}" if detail.spec_version else ""),
            ("Runs", f"{detail.total_runs} ({detail.success_runs} ok, {detail.failed_runs} failed)"),
            ("Created", f"{words.moment(detail.created_at)} by {detail.created_by}".removesuffix(" by ")),
            ("Updated", words.moment(detail.updated_at)),
            ("Variables", mapping(detail.variables)),
            ("Timeout", detail.timeout),
            ("Triggers", [trigger(one) for one in detail.triggers]),
            ("Gates", [*_gates(detail)]),
        ]
    )
    jobs = columns("stage", "job", "after", "steps", "timeout", "agents with", "rules")
    for stage, job in _jobs(detail):
        jobs.add_row(
            stage,
            job.name,
            ", ".join(job.depends_on),
            ", ".join(_steps(job)),
            job.timeout,
            mapping(job.agent_selector.match_labels),
            "; ".join(_rules(job)),
        )
    return Group(head, Text(""), jobs)


def _jobs(detail: pipeline_pb2.PipelineDetail) -> Iterator[tuple[str, pipeline_pb2.Job]]:
    for stage in detail.stages:
        for job in stage.jobs:
            yield stage.name, job
    for job in detail.jobs:
        yield "", job


def _steps(job: pipeline_pb2.Job) -> Iterator[str]:
    """Names of the steps, with those that a source and a target bring along."""
    if job.HasField("source"):
        yield "source"
    yield from (step.name for step in job.steps)
    if job.HasField("target"):
        yield "target"


def trigger(one: pipeline_pb2.Trigger) -> str:
    """`cron 30 2 * * * (Europe/Berlin)`, `event push on main`."""
    word = words.trigger_type(one.type)
    if one.type == pipeline_pb2.TRIGGER_TYPE_EVENT:
        return f"{word} {event_rules(one.options)}"
    options = json_format.MessageToDict(one.options)
    if one.type != pipeline_pb2.TRIGGER_TYPE_CRON:
        return word
    branch = f", branch {options['branch']}" if options.get("branch") else ""
    catch_up = ", catches up the last" if options.get("catch_up") == "last" else ""
    return f"{word} {options.get('schedule', '')} ({options.get('time_zone', 'UTC')}){branch}{catch_up}"


def _gates(detail: pipeline_pb2.PipelineDetail) -> Iterator[str]:
    for stage in detail.stages:
        if stage.approval.required:
            yield f"before stage {stage.name}: {gate(stage.approval)}"
    for _, job in _jobs(detail):
        if job.approval.required:
            yield f"after job {job.name}: {gate(job.approval)}"


def gate(approval: pipeline_pb2.Approval) -> str:
    """`2 approvals by ada, bob, not by who triggered the run, within 24h`."""
    args = json_format.MessageToDict(approval.args)
    needed = int(args.get("needed", 1))
    parts = [f"{needed} approval{'' if needed == 1 else 's'}"]
    if args.get("approvers"):
        parts[0] += f" by {', '.join(args['approvers'])}"
    if args.get("separation"):
        parts.append("not by who triggered the run")
    if args.get("timeout"):
        parts.append(f"within {args['timeout']}")
    return ", ".join(parts)


def _rules(job: pipeline_pb2.Job) -> Iterator[str]:
    if job.HasField("matrix"):
        yield matrix(job.matrix)
    if job.when:
        yield f"when {one_line(job.when)}"
    if job.HasField("retry"):
        pause = f" with a pause of {job.retry.delay}" if job.retry.delay else ""
        yield f"{job.retry.max_attempts} attempts{pause}" + (f" on {', '.join(job.retry.on)}" if job.retry.on else "")
    if job.concurrency:
        limit = f", {job.concurrency_limit} at a time" if job.concurrency_limit > 1 else ""
        yield f"key {job.concurrency}{limit}" + (", cancels older ones" if job.cancel_in_progress else "")
    if job.allow_failure:
        yield "failure tolerated"
    if job.priority:
        yield f"priority {job.priority}"
    if job.HasField("target"):
        yield f"deploys to {job.target.type}"


def matrix(one: pipeline_pb2.Matrix) -> str:
    """`matrix os (linux, mac) x py (3.11, 3.12), 1 included, 1 excluded`."""
    axes = " x ".join(f"{axis.name} ({', '.join(_value(value) for value in axis.values)})" for axis in one.axes)
    counts = [(len(one.include), "included"), (len(one.exclude), "excluded")]
    return ", ".join([f"matrix {axes}".rstrip(), *(f"{count} {word}" for count, word in counts if count)])


def _value(value: Value) -> str:
    """A value of a matrix as its cells are named: `3`, not `3.0`."""
    plain = json_format.MessageToDict(value)
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, float) and plain.is_integer():
        return str(int(plain))
    return str(plain)
