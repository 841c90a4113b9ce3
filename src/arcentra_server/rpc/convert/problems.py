"""Faults and warnings as an answer, where they are no error."""

from __future__ import annotations

from collections.abc import Sequence

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.domain.errors import Fault
from arcentra_server.rpc.convert.yaml_nodes import PlacedFault

MOST_PROBLEMS = 1_000


def problems_to(faults: Sequence[Fault]) -> list[pipeline_pb2.Problem]:
    """Return faults with their places, as far as they have one; the first thousand, which fit into an answer."""
    problems = [_problem(fault) for fault in faults[:MOST_PROBLEMS]]
    if len(faults) > MOST_PROBLEMS:
        problems.append(pipeline_pb2.Problem(message=f"and {len(faults) - MOST_PROBLEMS} more"))
    return problems


def _problem(fault: Fault) -> pipeline_pb2.Problem:
    if isinstance(fault, PlacedFault):
        place = fault.place
        return pipeline_pb2.Problem(path=fault.path, message=fault.text, line=place.line, column=place.column)
    return pipeline_pb2.Problem(path=fault.path, message=fault.message)
