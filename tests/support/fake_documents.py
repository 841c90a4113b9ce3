"""Validation of documents, for tests of its clients: what a document says of itself is found in it."""

from __future__ import annotations

from typing import Any

from arcentra_api.pipeline.v1 import pipeline_pb2


class FakeDocuments:
    """The served methods. A document is the pipeline's name; one that starts with `faulty` has faults."""

    def __init__(self) -> None:
        self.served: dict[str, Any] = {"ValidatePipeline": self.validate, "GetPipelineSchema": self.schema}

    async def validate(self, request: pipeline_pb2.ValidatePipelineRequest, _context: Any) -> Any:
        name = request.document.strip()
        if name.startswith("faulty"):
            faults = [
                pipeline_pb2.Problem(path="jobs[1].name", message="bad\x1b[31m name", line=7, column=9),
                pipeline_pb2.Problem(message="is empty"),
            ]
            return pipeline_pb2.ValidatePipelineResponse(faults=faults, name=name)
        warning = pipeline_pb2.Problem(path="variables['A_KEY']", message="looks like a secret", line=2, column=3)
        return pipeline_pb2.ValidatePipelineResponse(
            valid=True,
            warnings=[warning],
            name=name,
            namespace=request.namespace or "default",
            total_jobs=4,
            total_steps=1,
        )

    async def schema(self, _request: Any, _context: Any) -> pipeline_pb2.GetPipelineSchemaResponse:
        return pipeline_pb2.GetPipelineSchemaResponse(json_schema='{"title": "of the fake"}\n')
