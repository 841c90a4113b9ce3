from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from arcentra_api.agent.v1 import agent_pb2
from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.expressions import Rendered
from arcentra_server.domain.expressions.marks import mark
from arcentra_server.domain.instantiate import NewStep
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.rpc.convert.definition import args_from_proto, selector_from_proto
from arcentra_server.rpc.convert.dispatch import WireForm, complete, shown, spec_of
from arcentra_server.rpc.convert.fields import Findings
from tests.support.specs import ARGS, ENV, NAMES, SELECTORS, TEXT, TIMEOUTS

FORM = WireForm()
JOB_ID = UUID(int=3)
STEPS = st.builds(
    NewStep,
    id=st.uuids(),
    run_id=st.uuids(),
    job_id=st.just(JOB_ID),
    pipeline_id=st.uuids(),
    job_name=NAMES,
    name=NAMES,
    index=st.integers(0, 499),
    uses=NAMES,
    action=TEXT,
    args=ARGS,
    env=ENV,
    workspace=st.sampled_from([str(JOB_ID), f"{JOB_ID}-2"]),
    timeout_ms=TIMEOUTS,
    selector=SELECTORS,
    own_selector=st.booleans(),
    continue_on_error=st.booleans(),
    run_on_agent=st.booleans(),
)


def step(**changed: object) -> NewStep:
    fields: dict[str, object] = {
        "id": UUID(int=1),
        "run_id": UUID(int=2),
        "job_id": JOB_ID,
        "pipeline_id": UUID(int=4),
        "job_name": "build",
        "name": "compile",
        "index": 1,
        "uses": "shell",
        "action": "script",
        "args": {"script": "make", "jobs": 2},
        "env": {"A": "1", "B": "2"},
        "workspace": str(JOB_ID),
        "timeout_ms": 90_000,
        "selector": Selector((Term("os", Operator.IN, ("linux",)),)),
        "own_selector": False,
        "continue_on_error": True,
        "run_on_agent": True,
    }
    return NewStep(**{**fields, **changed})  # type: ignore[arg-type]


@given(STEPS)
def test_the_stored_form_holds_all_but_what_an_attempt_adds(new: NewStep) -> None:
    run = spec_of(FORM.encode(new))
    assert (run.step_run_id, run.command_id, run.lease_token, run.attempt) == ("", "", "", 0)
    assert (run.pipeline_id, run.pipeline_run_id, run.job_id) == (str(new.pipeline_id), str(new.run_id), str(JOB_ID))
    assert (run.job_name, run.step_name, run.step_index) == (new.job_name, new.name, new.index)
    assert (run.uses, run.action, run.env) == (new.uses, new.action, new.env)
    assert (run.continue_on_error, run.run_on_agent) == (new.continue_on_error, new.run_on_agent)
    assert args_from_proto(run.args, "", Findings()) == new.args
    assert selector_from_proto(run.agent_selector, "", Findings()).to_json() == new.selector.to_json()
    assert run.HasField("agent_selector") == (bool(new.selector.terms) or new.own_selector)


def test_the_workspace_of_the_job_is_the_empty_one_on_the_wire() -> None:
    assert spec_of(FORM.encode(step())).workspace == ""
    assert spec_of(FORM.encode(step(workspace=f"{JOB_ID}-1"))).workspace == f"{JOB_ID}-1"


def test_a_time_limit_is_written_as_people_write_it() -> None:
    assert spec_of(FORM.encode(step())).timeout == "1m30s"
    assert spec_of(FORM.encode(step(timeout_ms=None))).timeout == ""


def test_an_edit_sets_variables_over_the_present_ones() -> None:
    before = FORM.encode(step())
    after = spec_of(FORM.edit(before, {"B": "3", "C": "4"}, None))
    assert dict(after.env) == {"A": "1", "B": "3", "C": "4"}
    assert after.timeout == "1m30s"
    after.env.clear()
    unedited = spec_of(before)
    unedited.env.clear()
    assert after == unedited


def test_an_edit_sets_a_time_limit() -> None:
    run = spec_of(FORM.edit(FORM.encode(step()), {}, 3_600_000))
    assert (run.timeout, dict(run.env)) == ("1h", {"A": "1", "B": "2"})


def test_a_dispatch_is_completed_with_its_lease() -> None:
    payload = FORM.encode(step())
    run = complete(Dispatch(UUID(int=7), "secret", UUID(int=1), UUID(int=8), 2, payload))
    expected = agent_pb2.StepRun.FromString(payload)
    expected.step_run_id, expected.command_id = str(UUID(int=1)), str(UUID(int=7))
    expected.lease_token, expected.attempt = "secret", 2
    assert run == expected


def test_commit_of_the_run_fills_the_place_that_is_left_for_it() -> None:
    for written, expected in (({"ARCENTRA_COMMIT": ""}, "c0"), ({"ARCENTRA_COMMIT": "mine"}, "mine"), ({}, None)):
        payload = FORM.edit(FORM.encode(step()), written, None)
        run = complete(Dispatch(UUID(int=7), "t", UUID(int=1), UUID(int=8), 1, payload, commit="c0"))
        assert run.env.get("ARCENTRA_COMMIT") == expected


def test_what_was_evaluated_takes_the_place_of_what_was_written() -> None:
    dispatch = FORM.encode(step())
    assert (FORM.env(dispatch), FORM.args(dispatch)) == ({"A": "1", "B": "2"}, {"script": "make", "jobs": 2})
    run = spec_of(FORM.render(dispatch, Rendered({"B": "3"}, {"script": "test"}, "alpine", frozenset())))
    assert (dict(run.env), dict(run.args), run.image) == ({"A": "1", "B": "3"}, {"script": "test"}, "alpine")
    same = spec_of(FORM.render(dispatch, Rendered({}, None, None, frozenset())))
    assert same == spec_of(dispatch)


def test_secrets_take_the_place_of_their_marks_in_the_dispatch_alone() -> None:
    args = {"script": "make", "deep": {"list": [mark("KEY"), 1]}}
    payload = FORM.render(
        FORM.encode(step()), Rendered({"A": f"Bearer {mark('KEY')}"}, args, f"x:{mark('TAG')}", frozenset({"KEY"}))
    )
    values = {"KEY": "s3cr3t", "TAG": "9"}
    run = complete(Dispatch(UUID(int=7), "t", UUID(int=1), UUID(int=8), 1, payload, {"KEY": "s3cr3t"}, values))
    assert run.env["A"] == "Bearer s3cr3t"
    assert run.args["deep"]["list"] == ["s3cr3t", 1]  # type: ignore[index]
    assert (run.image, dict(run.secrets)) == ("x:9", {"KEY": "s3cr3t"})
    seen = shown(payload, ["KEY", "TAG"])
    assert (seen.env["A"], seen.image) == ("Bearer ${{ secrets.KEY }}", "x:${{ secrets.TAG }}")
    assert b"s3cr3t" not in payload


@given(st.sets(NAMES, min_size=1, max_size=20))
def test_marks_are_filled_in_every_variable(names: set[str]) -> None:
    payload = FORM.encode(step(env={name: f"<{mark('KEY')}>" for name in names}))
    run = complete(Dispatch(UUID(int=7), "t", UUID(int=1), UUID(int=8), 1, payload, {"S": "s3cr3t"}, {"KEY": "s3cr3t"}))
    assert dict(run.env) == dict.fromkeys(names, "<s3cr3t>")
    assert dict(shown(payload, ["KEY"]).env) == dict.fromkeys(names, "<${{ secrets.KEY }}>")
