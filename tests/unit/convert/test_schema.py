"""The JSON Schema: it is in docs/ as the code has it, and takes what the reader takes."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.domain.definition import PipelineSpec
from arcentra_server.rpc.convert.document_reader import Reader
from arcentra_server.rpc.convert.schema import json_schema, schema_text
from arcentra_server.rpc.convert.shapes import JOB, PIPELINE, STEP, Shape
from tests.support.documents import STYLES, Style, data_of
from tests.support.sound_specs import SOUND_SPECS
from tests.support.specs import LARGE
from tools.pipeline_schema import FILE

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def faults_of(data: Any) -> list[str]:
    return [error.json_path for error in VALIDATOR.iter_errors(data)]


def parsed(text: str) -> Any:
    """Return what a document holds, by the rules of the reader: others read `on` as a boolean."""
    reader = Reader(text)
    return reader.value(reader.root, "")


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_the_file_in_docs_is_up_to_date() -> None:
    wanted = "run `python -m tools.pipeline_schema --write`"
    assert FILE.read_text(encoding="utf-8") == schema_text(), wanted


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_valid(path: Path) -> None:
    assert faults_of(parsed(path.read_text(encoding="utf-8"))) == []


@LARGE
@given(SOUND_SPECS, st.sampled_from(STYLES))
def test_every_sound_definition_is_valid_in_every_style(spec: PipelineSpec, style: Style) -> None:
    assert faults_of(data_of(spec, style)) == []


STEPS = [{"name": "s", "uses": "shell"}]


def job(**parts: Any) -> dict[str, Any]:
    return {"name": "a", "jobs": [{"name": "j", "steps": STEPS, **parts}]}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"name": "a"},
        {"name": "a", "jobs": [], "stages": []},
        {"name": "a b", "jobs": []},
        {"name": "a", "jobs": [{"steps": STEPS}]},
        job(dependsOn="a"),
        job(depends=["a"]),
        job(timeout="soon"),
        job(priority=101),
        job(retry={}),
        job(retry={"maxAttempts": 11}),
        job(retry={"max_attempts": 2, "on": ["never"]}),
        job(matrix={}),
        job(matrix={"os": []}),
        job(matrix={"os": [["x"]]}),
        job(target={"type": "ftp", "config": {}}),
        job(target={"type": "k8s", "config": {"bucket": "b", "path": "x"}}),
        job(target={"type": "k8s", "config": {"manifests": ["x"], "kubeconfig": "in clear"}}),
        job(notify={"on_success": {"plugin": "slack", "args": {}}}),
        job(notify={"on_success": {"plugin": "slack", "args": {"url": "https://hooks.slack.com"}}}),
        job(steps=[{"name": "s"}]),
        job(steps=[{"name": "s", "uses": "shell", "args": []}]),
        job() | {"triggers": [{"type": "cron"}]},
        job() | {"triggers": [{"type": "event", "schedule": "@daily"}]},
    ],
)
def test_what_is_wrong_is_not_valid(data: Any) -> None:
    assert faults_of(data)


@pytest.mark.parametrize(
    "data",
    [
        job(retry={"maxAttempts": 3, "on": ["agent_lost"]}),
        job(matrix={"os": ["a", 1, True]}, priority=-100),
        job(target={"type": "command", "config": {"script": "x"}}),
        job(notify={"onFailure": {"plugin": "mail", "args": {"server": "s", "from": "a@b", "to": ["c@d"]}}}),
        job(
            steps=[{"name": "s", "uses": "shell", "secrets": ["A"]}, {"name": "t", "uses": "x", "secrets": {"A": "B"}}]
        ),
        job() | {"triggers": [{"type": "cron", "options": {"timeZone": "UTC", "schedule": "@daily"}}]},
    ],
)
def test_what_is_right_is_valid(data: Any) -> None:
    assert faults_of(data) == []


@pytest.mark.parametrize("shape", [PIPELINE, JOB, STEP], ids=lambda shape: shape.name)
def test_every_key_is_described_in_both_spellings(shape: Shape) -> None:
    schema = json_schema()
    properties = schema["properties"] if shape is PIPELINE else schema["$defs"][shape.name]["properties"]
    assert set(properties) == set(shape.spellings)
    assert all(part["description"] for part in properties.values())


def test_the_text_is_the_schema() -> None:
    assert json.loads(schema_text()) == json_schema()
