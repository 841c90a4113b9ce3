"""Documents over the wire: validate says what apply would, and stores nothing."""

import json
from pathlib import Path

import jsonschema
import pytest
from grpc import StatusCode, aio

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.rpc.convert.problems import MOST_PROBLEMS
from tests.support.server import Client

DOCUMENTS = Path(__file__).parents[1] / "data" / "documents"
FAULTY = sorted(DOCUMENTS.glob("*.yaml"))
SOUND = """
name: validated
variables: {API_KEY: in clear}
jobs:
  - name: test
    matrix: {os: [linux, mac], v: [1, 2]}
    agent_selector: {match_labels: {nobody: has-it}}
    source: {type: git, repo: https://example.test/a.git}
    steps:
      - {name: s, uses: shell, args: {script: "echo ${{ matrix.os }}"}}
"""


async def validate(client: Client, document: str, namespace: str = "") -> pipeline_pb2.ValidatePipelineResponse:
    request = pipeline_pb2.ValidatePipelineRequest(document=document, namespace=namespace)
    answer: pipeline_pb2.ValidatePipelineResponse = await client.pipeline.ValidatePipeline(
        request, metadata=client.metadata
    )
    return answer


def shown(problem: pipeline_pb2.Problem) -> str:
    place = f"line {problem.line}, column {problem.column}: " if problem.line else ""
    return place + (f"{problem.path}: " if problem.path else "") + problem.message


async def names(client: Client) -> set[str]:
    listed = await client.pipeline.ListPipelines(
        pipeline_pb2.ListPipelinesRequest(page_size=100), metadata=client.metadata
    )
    return {pipeline.name for pipeline in listed.pipelines}


async def test_every_broken_document_gives_its_faults_and_nothing_is_stored(admin: Client) -> None:
    before = await names(admin)
    for path in FAULTY:
        text = path.read_text(encoding="utf-8")
        answer = await validate(admin, text)
        assert not answer.valid, path.stem
        assert [shown(fault) for fault in answer.faults] == path.with_suffix(".txt").read_text().splitlines(), path.stem
        with pytest.raises(aio.AioRpcError) as refused:
            await admin.pipeline.ApplyPipeline(
                pipeline_pb2.ApplyPipelineRequest(document=text), metadata=admin.metadata
            )
        assert refused.value.code() is StatusCode.INVALID_ARGUMENT
    assert await names(admin) == before


async def test_a_sound_document_is_counted_and_warned_about(admin: Client) -> None:
    answer = await validate(admin, SOUND, "team")
    assert answer.valid, answer.faults
    assert (answer.name, answer.namespace) == ("validated", "team")
    assert (answer.total_jobs, answer.total_steps) == (4, 8)
    by_path = {warning.path: warning for warning in answer.warnings}
    clear = by_path["variables['API_KEY']"]
    assert (clear.line, clear.column) == (3, 22)
    assert "secret in clear" in clear.message
    fleet = by_path.get("jobs[0].agent_selector") or by_path[""]
    assert "agent" in fleet.message
    assert "validated" not in await names(admin)


async def test_the_namespace_of_the_request_is_for_a_document_that_names_none(admin: Client) -> None:
    assert (await validate(admin, SOUND)).namespace == "default"
    assert (await validate(admin, SOUND + "namespace: own\n", "team")).namespace == "own"
    answer = await validate(admin, SOUND, "no good")
    assert [fault.path for fault in answer.faults] == ["namespace"]


async def test_faults_beyond_a_thousand_are_counted(admin: Client) -> None:
    jobs = "".join(f"  - {{name: 'j {n}', steps: [{{name: s, uses: shell}}]}}\n" for n in range(MOST_PROBLEMS + 7))
    answer = await validate(admin, f"name: a\njobs:\n{jobs}")
    assert len(answer.faults) == MOST_PROBLEMS + 1
    assert answer.faults[-1].message == "and 7 more"


async def test_the_schema_takes_a_sound_document(admin: Client) -> None:
    request = pipeline_pb2.GetPipelineSchemaRequest()
    answer = await admin.pipeline.GetPipelineSchema(request, metadata=admin.metadata)
    schema = json.loads(answer.json_schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    document = {"name": "a", "jobs": [{"name": "j", "steps": [{"name": "s", "uses": "shell"}]}]}
    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "jbos": []}, schema)


async def test_a_faulty_call_has_the_paths_of_the_contract(admin: Client) -> None:
    cron = pipeline_pb2.Trigger(type=pipeline_pb2.TRIGGER_TYPE_CRON)
    cron.options.update({"schedule": "never"})
    gate = pipeline_pb2.Approval(required=True)
    gate.args.update({"needed": 0})
    job = pipeline_pb2.Job(name="j", approval=gate, steps=[pipeline_pb2.Step(name="s", uses="shell")])
    with pytest.raises(aio.AioRpcError) as refused:
        await admin.pipeline.CreatePipeline(
            pipeline_pb2.CreatePipelineRequest(jobs=[job], triggers=[cron]), metadata=admin.metadata
        )
    assert "triggers[0].options.schedule: " in str(refused.value.details())
    assert "jobs[0].approval.args.needed: is 0, must be 1 to 100" in str(refused.value.details())
