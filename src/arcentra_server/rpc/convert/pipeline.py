"""Pipelines and their runs between the contract and the services."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.db.paging import Page
from arcentra_server.db.pipelines import PipelineRow
from arcentra_server.domain.definition_checks import check_pipeline
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.field_checks import check_name
from arcentra_server.rpc.convert.definition import spec_from_proto
from arcentra_server.rpc.convert.definition_out import (
    jobs_to_proto,
    stages_to_proto,
    timeout_text,
    triggers_to_proto,
)
from arcentra_server.rpc.convert.enums import RUN_STATUS
from arcentra_server.rpc.convert.fields import Findings, unix_seconds
from arcentra_server.services.pipelines import NewPipeline, PipelineChange

AnyList = pipeline_pb2.ListPipelinesRequest | pipeline_pb2.ListPipelineRunsRequest


# Where documents have no level between, the contract has one.
_IN_OPTIONS = re.compile(r"^(triggers\[\d+\])\.(?!type\b|options\b)")
_IN_ARGS = re.compile(r"(?<![^.])approval\.(?!required\b|type\b|plugin\b|args\b)")


@contextmanager
def contract_paths() -> Iterator[None]:
    """Let faults of a definition have the paths of the contract, where checks give those of documents.

    Raises:
        ValidationError: as it was raised inside, with other paths.
    """
    try:
        yield
    except ValidationError as error:
        faults = [replace(fault, path=_contract_path(fault.path)) for fault in error.faults]
        raise ValidationError(faults) from error


def new_pipeline(request: pipeline_pb2.CreatePipelineRequest) -> NewPipeline:
    """Read a new pipeline; its definition is for the service to check, unless it cannot be read to its end.

    Raises:
        ValidationError: a part of it is malformed; names all other faults too.
    """
    findings = Findings()
    spec = spec_from_proto(request, findings)
    findings.text(request.description, "description")
    findings.raise_any(
        (check_name(request.namespace, "namespace") if request.namespace else [])
        + (check_name(request.name, "name") if request.name else [])
        + check_pipeline(spec)
    )
    return NewPipeline(spec, namespace=request.namespace, name=request.name, description=request.description)


def pipeline_change(request: pipeline_pb2.UpdatePipelineRequest) -> PipelineChange:
    """Read a change; what is empty stays as it is.

    Raises:
        ValidationError: a part of it is malformed.
    """
    findings = Findings()
    spec = spec_from_proto(request, findings)
    findings.text(request.description, "description")
    findings.raise_any(check_pipeline(spec) if spec.stages else [])
    return PipelineChange(
        name=request.name,
        description=request.description,
        enabled=request.enabled if request.HasField("enabled") else None,
        namespace=request.namespace,
        variables=spec.variables or None,
        stages=spec.stages or None,
        jobs_only=spec.jobs_only,
        timeout_ms=spec.timeout_ms,
        triggers=spec.triggers or None,
    )


def _contract_path(path: str) -> str:
    return _IN_ARGS.sub("approval.args.", _IN_OPTIONS.sub(r"\1.options.", path))


def page_of(request: AnyList) -> Page:
    """Read which page is wanted.

    Raises:
        ValidationError: a number is out of its range.
    """
    return Page.of(request.page, request.page_size, request.sort_by, descending=request.sort_desc)


def pipeline_to(row: PipelineRow) -> pipeline_pb2.PipelineDetail:
    """Return a pipeline as it is shown."""
    return pipeline_pb2.PipelineDetail(
        pipeline_id=str(row.id),
        namespace=row.namespace,
        variables=row.spec.variables,
        stages=stages_to_proto(row.spec),
        jobs=jobs_to_proto(row.spec),
        triggers=triggers_to_proto(row.spec.triggers),
        status=RUN_STATUS.to_proto(row.last_status),
        created_at=unix_seconds(row.created_at),
        updated_at=unix_seconds(row.updated_at),
        created_by=row.created_by,
        total_runs=row.total_runs,
        success_runs=row.success_runs,
        failed_runs=row.failed_runs,
        name=row.name,
        description=row.description,
        enabled=row.enabled,
        spec_version=row.spec_version,
        timeout=timeout_text(row.spec.timeout_ms),
        spec_digest=row.digest.hex(),
    )
