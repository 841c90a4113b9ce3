from collections.abc import Callable

import pytest
from google.protobuf import struct_pb2
from hypothesis import given

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.domain.definition import (
    ApprovalSpec,
    CatchUp,
    CronTrigger,
    EventTrigger,
    ManualTrigger,
    PipelineSpec,
)
from arcentra_server.domain.definition_json import digest
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.rpc.convert.definition import args_from_proto, selector_from_proto, spec_from_proto
from arcentra_server.rpc.convert.definition_out import (
    jobs_to_proto,
    stages_to_proto,
    timeout_text,
    triggers_to_proto,
    write_selector,
)
from arcentra_server.rpc.convert.fields import Findings
from tests.support.specs import LARGE, SELECTORS, SPECS, canonical


def read(*jobs: pipeline_pb2.Job, stages: list[pipeline_pb2.Stage] | None = None) -> tuple[PipelineSpec, list[Fault]]:
    return read_request(pipeline_pb2.CreatePipelineRequest(jobs=jobs, stages=stages))


def read_request(request: pipeline_pb2.CreatePipelineRequest) -> tuple[PipelineSpec, list[Fault]]:
    findings = Findings()
    return spec_from_proto(request, findings), findings.faults


def job(**fields: object) -> pipeline_pb2.Job:
    fields = {"name": "j", "steps": [pipeline_pb2.Step(name="s", uses="shell")], **fields}
    return pipeline_pb2.Job(**fields)  # type: ignore[arg-type]


@LARGE
@given(SPECS)
def test_a_definition_survives_the_contract(spec: PipelineSpec) -> None:
    request = pipeline_pb2.CreatePipelineRequest(
        variables=spec.variables,
        stages=stages_to_proto(spec),
        jobs=jobs_to_proto(spec),
        triggers=triggers_to_proto(spec.triggers),
        timeout=timeout_text(spec.timeout_ms),
    )
    back, faults = read_request(pipeline_pb2.CreatePipelineRequest.FromString(request.SerializeToString()))
    assert faults == []
    assert canonical(back) == canonical(spec)
    assert digest(back) == digest(spec)


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
    assert findings.faults == [Fault("args", "holds a NUL character")]


def approval(**rules: object) -> pipeline_pb2.Approval:
    message = pipeline_pb2.Approval(required=True)
    message.args.update(rules)  # type: ignore[arg-type]
    return message


def test_a_gate_has_its_rules_in_its_arguments() -> None:
    gate = approval(approvers=["anna", "bob"], needed=2, separation=True, timeout="24h")
    spec, faults = read(job(approval=gate))
    assert faults == []
    assert spec.stages[0].jobs[0].approval == ApprovalSpec(("anna", "bob"), 2, True, 86_400_000)


def test_a_gate_that_is_not_required_is_none() -> None:
    gate = approval(needed=2)
    gate.required = False
    spec, faults = read(stages=[pipeline_pb2.Stage(name="a", jobs=[job()], approval=gate)])
    assert (faults, spec.stages[0].approval) == ([], None)


def test_what_is_wrong_with_a_gate_is_said_where_it_stands() -> None:
    gate = approval(approvers="anna", needed=1.5, separation="yes", timeout=30, neded=1)
    gate.plugin, gate.type = "slack", 7  # type: ignore[assignment]
    assert read(job(approval=gate))[1] == [
        Fault("jobs[0].approval.type", "7 is not a known value"),
        Fault("jobs[0].approval.plugin", "'slack' is not known: write manual"),
        Fault("jobs[0].approval.args.neded", "unknown key; did you mean 'needed'?"),
        Fault("jobs[0].approval.args.approvers", "expected a list"),
        Fault("jobs[0].approval.args.needed", "expected a whole number"),
        Fault("jobs[0].approval.args.separation", "expected true or false"),
        Fault("jobs[0].approval.args.timeout", "expected a string"),
    ]


def trigger(kind: pipeline_pb2.TriggerType.ValueType, **options: object) -> pipeline_pb2.Trigger:
    message = pipeline_pb2.Trigger(type=kind)
    message.options.update(options)  # type: ignore[arg-type]
    return message


CRON, EVENT = pipeline_pb2.TRIGGER_TYPE_CRON, pipeline_pb2.TRIGGER_TYPE_EVENT


def test_triggers_have_their_options_in_a_struct_in_either_spelling() -> None:
    request = pipeline_pb2.CreatePipelineRequest(
        triggers=[
            trigger(CRON, schedule="@daily", timeZone="Europe/Berlin", catch_up="last", branch="main"),
            trigger(EVENT, events=["push", "tag"], branches=["main", "!x"], variables={"A": "1"}),
            pipeline_pb2.Trigger(type=pipeline_pb2.TRIGGER_TYPE_MANUAL),
        ]
    )
    spec, faults = read_request(request)
    assert faults == []
    assert spec.triggers == (
        CronTrigger("@daily", "Europe/Berlin", CatchUp.LAST, "main"),
        EventTrigger(("push", "tag"), ("main", "!x"), variables={"A": "1"}),
        ManualTrigger(),
    )


def test_what_is_wrong_with_triggers_is_said_where_it_stands() -> None:
    request = pipeline_pb2.CreatePipelineRequest(
        triggers=[
            trigger(CRON, schedule=5, catch_up="all", catchUp="none"),
            trigger(EVENT, events="push", variables=["A"], paths=["a", 1]),
            trigger(pipeline_pb2.TRIGGER_TYPE_MANUAL, a=1),
            pipeline_pb2.Trigger(),
            pipeline_pb2.Trigger(type=9),  # type: ignore[arg-type]
        ]
    )
    faults = sorted(read_request(request)[1], key=lambda fault: fault.path)
    assert faults[0].path == "triggers[0].options.catch_up"
    assert faults[0].message in {"is given twice", "'all' is not known: write none or last"}
    assert faults[-7:] == [
        Fault("triggers[0].options.schedule", "expected a string"),
        Fault("triggers[1].options.events", "expected a list"),
        Fault("triggers[1].options.paths[1]", "expected a string"),
        Fault("triggers[1].options.variables", "expected a mapping"),
        Fault("triggers[2].options.a", "unknown key 'a'"),
        Fault("triggers[3].type", "is required"),
        Fault("triggers[4].type", "9 is not a known value"),
    ]


def test_the_cells_of_a_matrix_hold_plain_values() -> None:
    matrix = pipeline_pb2.Matrix(
        include=[struct_pb2.Struct(fields={"a": struct_pb2.Value(list_value=struct_pb2.ListValue())})]
    )
    matrix.axes.add(name="os", values=[struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)])
    assert read(job(matrix=matrix))[1] == [
        Fault("jobs[0].matrix.axes[0].values[0]", "expected a text, a number, true or false"),
        Fault("jobs[0].matrix.include[0].a", "expected a text, a number, true or false"),
    ]


@pytest.mark.parametrize(("expire", "days", "kept"), [(True, 7, 7), (True, 0, None), (False, 7, None)])
def test_an_artifact_expires_only_when_it_says_so(expire: bool, days: int, kept: int | None) -> None:
    artifact = pipeline_pb2.ArtifactConfig(name="a", path="b", expire=expire, expire_days=days)
    spec, _ = read(job(steps=[pipeline_pb2.Step(name="s", uses="shell", artifacts=[artifact])]))
    assert spec.stages[0].jobs[0].steps[0].artifacts[0].expire_days == kept


@pytest.mark.parametrize(("number", "message"), [(0, "is required"), (9, "9 is not a known value")])
def test_a_source_is_git(number: int, message: str) -> None:
    source = pipeline_pb2.Source(repo="r", type=number)  # type: ignore[arg-type]
    assert read(job(source=source))[1] == [Fault("jobs[0].source.type", message)]


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
