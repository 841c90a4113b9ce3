"""What is wrong with a document, a line for each thing: `FILE:LINE:COLUMN: PATH: MESSAGE`, as compilers write it."""

from collections.abc import Iterator

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.terminal import one_line


def lines(file: str, reply: pipeline_pb2.ValidatePipelineResponse) -> Iterator[str]:
    """Yield the faults and warnings of a file, and what came of it."""
    for fault in reply.faults:
        yield f"{_place(file, fault)}: {_text(fault)}"
    for warning in reply.warnings:
        yield f"{_place(file, warning)}: warning: {_text(warning)}"
    if reply.valid:
        size = f"{_counted(reply.total_jobs, 'job')}, {_counted(reply.total_steps, 'step')}"
        yield f"{file}: pipeline {reply.namespace}/{reply.name} is valid: {size}"
    else:
        yield f"{file}: {_counted(len(reply.faults), 'fault')}"


def _place(file: str, problem: pipeline_pb2.Problem) -> str:
    return f"{file}:{problem.line}:{problem.column}" if problem.line else file


def _text(problem: pipeline_pb2.Problem) -> str:
    return one_line(f"{problem.path}: {problem.message}" if problem.path else problem.message)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
