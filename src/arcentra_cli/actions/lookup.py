"""Finds what a person names: pipelines by name or id, agents' names by id."""

import re

from grpc.aio import AioRpcError

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.client import Client

DEFAULT_NAMESPACE = "default"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def is_id(text: str) -> bool:
    """Whether a text has the form of an id."""
    return _UUID.fullmatch(text) is not None


def pipeline_request(text: str, namespace: str | None) -> pipeline_pb2.GetPipelineRequest:
    """The request for `NAME`, `NAMESPACE/NAME` or an id; `namespace` holds for a bare name."""
    if is_id(text):
        return pipeline_pb2.GetPipelineRequest(pipeline_id=text)
    named, separator, name = text.rpartition("/")
    return pipeline_pb2.GetPipelineRequest(namespace=named if separator else namespace or DEFAULT_NAMESPACE, name=name)


async def find_pipeline(client: Client, text: str, namespace: str | None) -> pipeline_pb2.PipelineDetail:
    """The pipeline that a person named.

    Raises:
        grpc.aio.AioRpcError: there is none, or the call failed.
    """
    reply = await client.read(client.pipelines.GetPipeline, pipeline_request(text, namespace))
    return reply.pipeline


async def pipeline_id_of(client: Client, text: str | None, namespace: str | None) -> str:
    """The id of the pipeline that a person named; empty when none was named.

    Raises:
        grpc.aio.AioRpcError: there is none, or the call failed.
    """
    return (await find_pipeline(client, text, namespace)).pipeline_id if text else ""


async def get_run(client: Client, run_id: str) -> pipeline_pb2.PipelineRunDetail:
    """A run with its jobs and steps.

    Raises:
        grpc.aio.AioRpcError: there is none, or the call failed.
    """
    reply = await client.read(client.pipelines.GetPipelineRun, pipeline_pb2.GetPipelineRunRequest(run_id=run_id))
    return reply.run


async def agent_names(client: Client) -> dict[str, str]:
    """Names of agents by id; none when the caller may not list agents: names are a courtesy, ids say the same."""
    try:
        reply = await client.read(client.admin.ListAgents, admin_pb2.ListAgentsRequest())
    except AioRpcError:
        return {}
    return {agent.agent_id: agent.name for agent in reply.agents if agent.name}
