import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.domain.definition import GitSource, JobSpec, PipelineSpec, StageSpec, StepSpec
from arcentra_server.domain.definition_json import (
    approval_from_json,
    approval_to_json,
    digest,
    from_json,
    notify_from_json,
    notify_to_json,
    retry_from_json,
    retry_to_json,
    to_json,
)
from arcentra_server.domain.selectors import Operator, Selector, Term
from tests.support.specs import APPROVALS, LARGE, SPECS, canonical


def stored(document: Any) -> Any:
    """Return a document as the database gives it back: its keys in another order."""
    return json.loads(json.dumps(document, sort_keys=True))


@LARGE
@given(SPECS)
def test_a_definition_survives_being_stored(spec: PipelineSpec) -> None:
    back = from_json(stored(to_json(spec)))
    assert back == canonical(spec)
    assert digest(back) == digest(spec)
    assert to_json(back) == to_json(spec)


@LARGE
@given(SPECS, st.randoms())
def test_equal_definitions_have_equal_digests(spec: PipelineSpec, random: Any) -> None:
    def shuffled(entries: dict[str, str]) -> dict[str, str]:
        keys = list(entries)
        random.shuffle(keys)
        return {key: entries[key] for key in keys}

    other = replace(spec, variables=shuffled(dict(spec.variables)))
    assert digest(other) == digest(spec)
    assert digest(replace(spec, variables={**spec.variables, "OTHER": ""})) != digest(spec)


def test_what_is_as_by_default_is_not_stored() -> None:
    spec = PipelineSpec((StageSpec("default", (JobSpec("j", (StepSpec("s", "shell"),)),)),), jobs_only=True)
    assert to_json(spec) == {
        "stages": [{"name": "default", "jobs": [{"name": "j", "steps": [{"name": "s", "uses": "shell"}]}]}],
        "jobs_only": True,
    }


def test_a_selector_without_terms_is_another_thing_than_none() -> None:
    job = JobSpec("j", (), selector=Selector())
    spec = PipelineSpec((StageSpec("a", (job,)),))
    assert to_json(spec)["stages"][0]["jobs"][0]["selector"] == []
    assert from_json(to_json(spec)) == spec


def test_documents_that_write_out_every_key_are_read() -> None:
    """The form of the first version."""
    step = {
        "name": "s",
        "uses": "shell",
        "action": "",
        "args": {"script": "make"},
        "env": {},
        "continue_on_error": False,
        "timeout_ms": None,
        "selector": [["os", "In", ["linux"]]],
        "run_on_agent": True,
    }
    job = {
        "name": "j",
        "description": "",
        "env": {},
        "timeout_ms": 1_000,
        "source": {"repo": "r", "branch": "main"},
        "selector": None,
        "steps": [step],
    }
    document = {
        "jobs_only": False,
        "variables": {"A": "1"},
        "stages": [{"name": "one", "jobs": [job, {**job, "name": "k", "source": None}]}],
    }
    selector = Selector((Term("os", Operator.IN, ("linux",)),))
    steps = (StepSpec("s", "shell", args={"script": "make"}, selector=selector),)
    first = JobSpec("j", steps, timeout_ms=1_000, source=GitSource("r", "main"))
    assert from_json(document) == PipelineSpec(
        (StageSpec("one", (first, replace(first, name="k", source=None))),), {"A": "1"}
    )


@given(APPROVALS)
def test_a_gate_survives_by_itself(gate: Any) -> None:
    assert approval_from_json(stored(approval_to_json(gate))) == gate


@LARGE
@given(SPECS)
def test_parts_survive_by_themselves(spec: PipelineSpec) -> None:
    for _, job in spec.jobs():
        if job.retry is not None:
            assert retry_from_json(stored(retry_to_json(job.retry))) == job.retry
        if job.notify is not None:
            assert notify_from_json(stored(notify_to_json(job.notify))) == job.notify
