from collections.abc import Callable

import pytest
from google.protobuf import struct_pb2
from hypothesis import given

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.domain.definition import PipelineSpec
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.rpc.convert.definition import (
    args_from_proto,
    check_triggers,
    jobs_to_proto,
    selector_from_proto,
    spec_from_proto,
    stages_to_proto,
    write_selector,
)
from arcentra_server.rpc.convert.fields import NOT_AVAILABLE, Findings
from tests.unit.convert.specs import SELECTORS, SPECS, canonical


def read(*jobs: pipeline_pb2.Job, stages: list[pipeline_pb2.Stage] | None = None) -> tuple[PipelineSpec, list[Fault]]:
    findings = Findings()
    return spec_from_proto({}, stages or [], jobs, findings), findings.faults


def job(**fields: object) -> pipeline_pb2.Job:
    fields = {"name": "j", "steps": [pipeline_pb2.Step(name="s", uses="shell")], **fields}
    return pipeline_pb2.Job(**fields)  # type: ignore[arg-type]


@given(SPECS)
def test_a_definition_survives_the_contract(spec: PipelineSpec) -> None:
    findings = Findings()
    stages = [pipeline_pb2.Stage.FromString(stage.SerializeToString()) for stage in stages_to_proto(spec)]
    jobs = [pipeline_pb2.Job.FromString(job.SerializeToString()) for job in jobs_to_proto(spec)]
    back = spec_from_proto(spec.variables, stages, jobs, findings)
    assert findings.faults == []
    assert canonical(back) == canonical(spec)
    assert back.digest() == spec.digest()


@given(SELECTORS)
def test_a_selector_is_present_even_without_terms(selector: Selector) -> None:
    step = pipeline_pb2.Step()
    write_selector(step.agent_selector, selector)
    assert step.HasField("agent_selector")
    back = selector_from_proto(step.agent_selector, "", Findings())
    assert back.to_json() == selector.to_json()


def test_labels_to_match_are_terms_after_the_expressions() -> None:
    message = pipeline_pb2.AgentSelector(match_labels={"os": "linux", "arch": "arm64"})
    message.match_expressions.add(key="gpu", operator="Exists")
    assert selector_from_proto(message, "", Findings()).terms == (
        Term("gpu", Operator.EXISTS),
        Term("arch", Operator.IN, ("arm64",)),
        Term("os", Operator.IN, ("linux",)),
    )


def test_args_are_plain_data_and_whole_numbers_are_integers() -> None:
    struct = struct_pb2.Struct()
    struct.update({"a": 3, "b": [1.5, None, True, {}], "c": {"d": "e", "f": []}, "g": 1e300})
    struct.fields["unset"].SetInParent()
    args = args_from_proto(struct, "args", Findings())
    assert args == {"a": 3, "b": [1.5, None, True, {}], "c": {"d": "e", "f": []}, "g": 1e300, "unset": None}
    assert (type(args["a"]), type(args["g"])) == (int, float)


@pytest.mark.parametrize("args", [{"a": "\0"}, {"\0": 1}, {"a": [{"b": "\0"}]}])
def test_args_hold_no_nul(args: dict[str, object]) -> None:
    struct, findings = struct_pb2.Struct(), Findings()
    struct.update(args)  # type: ignore[arg-type]
    args_from_proto(struct, "args", findings)
    assert findings.faults == [Fault("args", "args hold a NUL character")]


APPROVAL = pipeline_pb2.Approval(required=True)
REFUSED: dict[str, pipeline_pb2.Job] = {
    "jobs[0].concurrency": job(concurrency="deploy"),
    "jobs[0].approval.required": job(approval=APPROVAL),
    "jobs[0].target": job(target=pipeline_pb2.Target(type="k8s")),
    "jobs[0].notify": job(notify=pipeline_pb2.Notify()),
    "jobs[0].steps[0].when": job(steps=[pipeline_pb2.Step(name="s", uses="shell", when="always()")]),
}


@pytest.mark.parametrize("path", REFUSED)
def test_what_is_not_carried_out_yet_is_refused_at_its_path(path: str) -> None:
    assert read(REFUSED[path])[1] == [Fault(path, NOT_AVAILABLE)]


def test_an_approval_before_a_stage_is_refused_and_one_that_is_not_required_is_none() -> None:
    stages = [pipeline_pb2.Stage(name="a", jobs=[job()], approval=APPROVAL)]
    assert read(stages=stages)[1] == [Fault("stages[0].approval.required", NOT_AVAILABLE)]
    stages[0].approval.required = False
    assert read(stages=stages)[1] == []


SOURCES: list[tuple[pipeline_pb2.Source, str, str]] = [
    (pipeline_pb2.Source(repo="r"), "type", "is required"),
    (pipeline_pb2.Source(repo="r", type=9), "type", "9 is not a known value"),  # type: ignore[arg-type]
    (
        pipeline_pb2.Source(repo="r", type=pipeline_pb2.SOURCE_TYPE_GIT, auth=pipeline_pb2.SourceAuth()),
        "auth",
        "credentials of a source are not available in this version: use a repository that needs none",
    ),
]


@pytest.mark.parametrize(("source", "field", "message"), SOURCES)
def test_a_source_is_git_without_credentials(source: pipeline_pb2.Source, field: str, message: str) -> None:
    assert read(job(source=source))[1] == [Fault(f"jobs[0].source.{field}", message)]


def test_triggers_are_manual() -> None:
    findings = Findings()
    triggers = [pipeline_pb2.Trigger(type=number) for number in (1, 2, 3, 0, 9)]  # type: ignore[arg-type]
    triggers[0].options.SetInParent()
    manual = pipeline_pb2.Trigger(type=pipeline_pb2.TRIGGER_TYPE_MANUAL)
    manual.options.update({"a": 1})
    check_triggers([*triggers, manual], findings)
    assert findings.faults == [
        Fault("triggers[1].type", f"CRON {NOT_AVAILABLE}"),
        Fault("triggers[2].type", f"EVENT {NOT_AVAILABLE}"),
        Fault("triggers[3].type", "is required"),
        Fault("triggers[4].type", "9 is not a known value"),
        Fault("triggers[5].options", "a manual trigger has none"),
    ]


def test_all_faults_are_found_in_one_reading() -> None:
    step = pipeline_pb2.Step(name="s", uses="shell", timeout="soon", action="\0")
    step.agent_selector.match_labels[""] = "x"
    step.agent_selector.match_expressions.add(key="os", operator="Is")
    stage = pipeline_pb2.Stage(name="a", jobs=[job(), job(timeout="5 minutes", steps=[step])])
    _, faults = read(job(), stages=[stage])
    assert [fault.path for fault in faults] == [
        "jobs",
        "stages[0].jobs[1].steps[0].agent_selector.match_expressions[0].operator",
        "stages[0].jobs[1].steps[0].agent_selector.match_labels",
        "stages[0].jobs[1].steps[0].action",
        "stages[0].jobs[1].steps[0].timeout",
        "stages[0].jobs[1].timeout",
    ]


@pytest.mark.parametrize("show", [stages_to_proto, jobs_to_proto])
def test_a_definition_is_shown_in_the_form_it_was_written_in(show: Callable[[PipelineSpec], list[object]]) -> None:
    by_jobs, _ = read(job())
    by_stages, _ = read(stages=[pipeline_pb2.Stage(name="a", jobs=[job()])])
    assert bool(show(by_jobs)) is (show is jobs_to_proto)
    assert bool(show(by_stages)) is (show is stages_to_proto)
