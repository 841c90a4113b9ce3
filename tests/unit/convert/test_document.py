import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.domain.definition import GitSource, PipelineSpec, StepSpec
from arcentra_server.domain.definition_checks import check_pipeline
from arcentra_server.domain.definition_json import digest
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.rpc.convert.definition import spec_from_proto
from arcentra_server.rpc.convert.document import examine, read_pipeline
from arcentra_server.rpc.convert.document_reader import MOST_EXPANSIONS
from arcentra_server.rpc.convert.fields import Findings
from arcentra_server.rpc.convert.yaml_compose import LARGEST_DOCUMENT
from tests.support.calls import calls_of
from tests.support.documents import STYLES, Style, document_of
from tests.support.sound_specs import SOUND_SPECS
from tests.support.specs import LARGE, SPECS, canonical

ROOT = Path(__file__).parents[3]
FAULTY = sorted((ROOT / "tests" / "data" / "documents").glob("*.yaml"))

FULL = """
name: build
namespace: team
description: All of it.
enabled: false
variables: {VERSION: 1.10, DEBUG: yes, COUNT: 007, EMPTY: "", ON: true}
triggers: [{type: manual}]
stages:
  - name: verify
    jobs:
      - name: test
        description: Tests.
        timeout: 1h30m
        env: {A: b}
        agent_selector:
          match_labels: {os: linux, gpu: true}
          match_expressions:
            - {key: cores, operator: Gt, values: [4]}
        source: {type: Git, repo: https://example.test/a.git, branch: 1.0}
        steps:
          - name: run
            uses: shell
            action: script
            args: {script: "make\\n", number: 3.0, list: [1, 2.5, null, on, 0x10, 1e3, {}]}
            env:
            timeout: 90s
            continue_on_error: true
            agent_selector: {}
            run_on_agent: false
"""
LEAST = "name: a\njobs: [{name: j, steps: [{name: s, uses: shell%s}]}]\n"


def fault_of(text: str) -> str:
    with pytest.raises(ValidationError) as caught:
        read_pipeline(text)
    return str(caught.value)


@pytest.mark.parametrize("path", FAULTY, ids=lambda path: path.stem)
def test_faults_are_named_with_their_places(path: Path) -> None:
    expected = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    assert fault_of(path.read_text(encoding="utf-8")) == "; ".join(expected)


def test_programs_get_the_field_path_beside_the_place() -> None:
    with pytest.raises(ValidationError) as caught:
        read_pipeline(LEAST % ", timeout: x")
    (fault,) = caught.value.faults
    assert fault.path == "jobs[0].steps[0].timeout"
    assert fault.message.startswith("line 2, column 58: 'x' is not a duration")


def test_the_whole_form_is_read() -> None:
    new = read_pipeline(FULL)
    assert (new.name, new.namespace, new.description, new.enabled) == ("build", "team", "All of it.", False)
    assert new.spec.variables == {"VERSION": "1.10", "DEBUG": "yes", "COUNT": "007", "EMPTY": "", "ON": "true"}
    (job,) = new.spec.stages[0].jobs
    assert (job.name, job.description, job.timeout_ms, job.env) == ("test", "Tests.", 5_400_000, {"A": "b"})
    assert job.source == GitSource("https://example.test/a.git", "1.0")
    assert job.selector == Selector(
        (
            Term("cores", Operator.GT, ("4",)),
            Term("gpu", Operator.IN, ("true",)),
            Term("os", Operator.IN, ("linux",)),
        )
    )
    args = {"script": "make\n", "number": 3, "list": [1, 2.5, None, "on", 16, 1000, {}]}
    assert job.steps == (
        StepSpec(
            "run",
            "shell",
            "script",
            args,
            continue_on_error=True,
            timeout_ms=90_000,
            selector=Selector(),
            run_on_agent=False,
        ),
    )
    assert not new.spec.jobs_only


def test_jobs_alone_are_one_stage() -> None:
    new = read_pipeline(LEAST % "")
    assert (new.enabled, new.namespace, new.spec.jobs_only) == (True, "", True)
    assert [stage.name for stage in new.spec.stages] == ["default"]


def test_the_example_is_read() -> None:
    new = read_pipeline((ROOT / "examples" / "self_build.yaml").read_text(encoding="utf-8"))
    assert [job.name for _, job in new.spec.jobs()] == ["lint", "test", "wheel"]


def test_camel_case_is_read() -> None:
    text = LEAST % ", continueOnError: true, runOnAgent: false, agentSelector: {matchLabels: {os: linux}}"
    (step,) = read_pipeline(text).spec.stages[0].jobs[0].steps
    assert (step.continue_on_error, step.run_on_agent) == (True, False)
    assert step.selector == Selector((Term("os", Operator.IN, ("linux",)),))


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_is_read(indent: int | str | None) -> None:
    args = {"text": "a\tb/\U0001f600", "numbers": [1, -2.5, 1e3, 1.5e-7], "nothing": None, "yes": True}
    document = {"name": "a", "jobs": [{"name": "j", "steps": [{"name": "s", "uses": "shell", "args": args}]}]}
    text = json.dumps(document, indent=indent).replace("/", "\\/")
    assert read_pipeline(text).spec.stages[0].jobs[0].steps[0].args == args


def test_a_document_and_a_call_make_the_same_definition() -> None:
    step = pipeline_pb2.Step(name="s", uses="shell", run_on_agent=True)
    step.args.update({"n": 3, "f": 0.5})
    request = pipeline_pb2.CreatePipelineRequest(jobs=[pipeline_pb2.Job(name="j", steps=[step])])
    by_call = spec_from_proto(request, Findings())
    by_document = read_pipeline(LEAST % ", args: {n: 3.0, f: 5e-1}").spec
    assert digest(by_document) == digest(by_call)


@LARGE
@given(SPECS, st.sampled_from(STYLES))
def test_every_definition_can_be_written_as_a_document(spec: PipelineSpec, style: Style) -> None:
    read = examine(document_of(spec, style))
    assert read.new.spec == canonical(spec)
    assert digest(read.new.spec) == digest(spec)
    # What is said about it are the faults of the definition, none of the reading.
    assert {fault.text for fault in read.faults} == {fault.message for fault in check_pipeline(read.new.spec)}


@LARGE
@given(SPECS)
def test_a_fault_has_the_place_of_what_is_wrong(spec: PipelineSpec) -> None:
    lines = (text := document_of(spec)).splitlines()
    for fault in examine(text).faults:
        line = lines[fault.place.line - 1]
        last = re.split(r"[.\[]", re.sub(r"\[\d+\]", "", fault.path))[-1]
        if re.fullmatch(r"[a-z_]+", last) and re.search(rf"\b{last}: \S", line):
            assert line[fault.place.column - 1 :] == line.split(f"{last}: ", 1)[1]


@given(st.text(max_size=60) | st.text("{}[]:,-&*!|>'\"%@#? \n\ta1", max_size=60))
def test_no_text_is_more_than_faulty(text: str) -> None:
    fault_of(text)


def test_too_large_a_document_is_refused_before_it_is_read() -> None:
    assert fault_of("é" * (LARGEST_DOCUMENT // 2 + 1)) == "document: has 1048578 bytes, more than 1048576"


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_ends_the_reading(opening: str) -> None:
    assert "not valid YAML: nested deeper than 32" in fault_of(opening * 10_000)


def repeated(count: int) -> str:
    items = ", ".join(["*a"] * count)
    return LEAST % f", args: {{first: &a [x], rest: [{items}]}}"


def test_a_hundred_aliases_are_expanded_and_no_more() -> None:
    # Both the list and what is in it come from the alias.
    (step,) = read_pipeline(repeated(MOST_EXPANSIONS // 2)).spec.stages[0].jobs[0].steps
    assert step.args["rest"] == [["x"]] * 50
    assert "more than 100 values come from aliases" in fault_of(repeated(MOST_EXPANSIONS // 2 + 1))


def test_aliases_of_aliases_do_not_explode() -> None:
    levels = ", ".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 20))
    assert "more than 100 values come from aliases" in fault_of(LEAST % f", args: {{l0: &l0 [x], {levels}}}")


def test_large_texts_are_not_multiplied_by_aliases() -> None:
    copies = ", ".join(f"v{n}: *a" for n in range(20))
    text = f"variables: {{a: &a {'x' * 500_000}, {copies}}}\n" + LEAST % ""
    assert "more than 4194304 characters once its aliases are expanded" in fault_of(text)


def test_many_steps_without_aliases_are_read() -> None:
    steps = ", ".join(f"{{name: s{n}, uses: shell, args: {{n: {n}}}, env: {{A: {n}}}}}" for n in range(300))
    new = read_pipeline(f"name: a\njobs: [{{name: j, steps: [{steps}]}}]")
    assert [step.args["n"] for step in new.spec.stages[0].jobs[0].steps] == list(range(300))


@LARGE
@given(SOUND_SPECS, st.sampled_from(STYLES))
def test_sound_definitions_are_read_without_faults(spec: PipelineSpec, style: Style) -> None:
    read = examine(document_of(spec, style))
    assert [fault.shown for fault in read.faults] == []
    assert read.new.spec == canonical(spec)


def large_document() -> str:
    """1,000 jobs with 3,000 steps and 5,000 edges."""
    lines = ["name: large", "jobs:"]
    for job in range(1_000):
        needs = ", ".join(f"j{job - back}" for back in range(1, 6) if job >= back)
        lines += [f"  - name: j{job}", f"    depends_on: [{needs}]", "    steps:"]
        for step in range(3):
            lines += [f"      - name: s{step}", "        uses: shell", "        args:", "          script: |"]
            lines += [f"            make part-{job}-{step}", "            echo done"]
    return "\n".join(lines) + "\n"


def test_a_large_document_is_read_and_checked_by_few_calls_a_character() -> None:
    text, read = large_document(), []
    # Two; by PyYAML's own parser it were 16.
    assert calls_of(lambda: read.append(read_pipeline(text))) < 4 * len(text)
    assert len(list(read[0].spec.jobs())) == 1_000
