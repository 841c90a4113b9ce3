from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from arcentra_api.agent.v1 import agent_pb2
from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.instantiate import NewStep
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.rpc.convert.definition import args_from_proto, selector_from_proto
from arcentra_server.rpc.convert.dispatch import complete, edit, encode, spec_of
from arcentra_server.rpc.convert.fields import Findings
from tests.unit.convert.specs import ARGS, ENV, NAMES, SELECTORS, TEXT, TIMEOUTS

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
    run = spec_of(encode(new))
    assert (run.step_run_id, run.command_id, run.lease_token, run.attempt) == ("", "", "", 0)
    assert (run.pipeline_id, run.pipeline_run_id, run.job_id) == (str(new.pipeline_id), str(new.run_id), str(JOB_ID))
    assert (run.job_name, run.step_name, run.step_index) == (new.job_name, new.name, new.index)
    assert (run.uses, run.action, run.env) == (new.uses, new.action, new.env)
    assert (run.continue_on_error, run.run_on_agent) == (new.continue_on_error, new.run_on_agent)
    assert args_from_proto(run.args, "", Findings()) == new.args
    assert selector_from_proto(run.agent_selector, "", Findings()).to_json() == new.selector.to_json()
    assert run.HasField("agent_selector") == (bool(new.selector.terms) or new.own_selector)


def test_the_workspace_of_the_job_is_the_empty_one_on_the_wire() -> None:
    assert spec_of(encode(step())).workspace == ""
    assert spec_of(encode(step(workspace=f"{JOB_ID}-1"))).workspace == f"{JOB_ID}-1"


def test_a_time_limit_is_written_as_people_write_it() -> None:
    assert spec_of(encode(step())).timeout == "1m30s"
    assert spec_of(encode(step(timeout_ms=None))).timeout == ""


def test_an_edit_sets_variables_over_the_present_ones() -> None:
    before = encode(step())
    after = spec_of(edit(before, {"B": "3", "C": "4"}, None))
    assert dict(after.env) == {"A": "1", "B": "3", "C": "4"}
    assert after.timeout == "1m30s"
    after.env.clear()
    unedited = spec_of(before)
    unedited.env.clear()
    assert after == unedited


def test_an_edit_sets_a_time_limit() -> None:
    run = spec_of(edit(encode(step()), {}, 3_600_000))
    assert (run.timeout, dict(run.env)) == ("1h", {"A": "1", "B": "2"})


def test_a_dispatch_is_completed_with_its_lease() -> None:
    payload = encode(step())
    run = complete(Dispatch(UUID(int=7), "secret", UUID(int=1), UUID(int=8), 2, payload))
    expected = agent_pb2.StepRun.FromString(payload)
    expected.step_run_id, expected.command_id = str(UUID(int=1)), str(UUID(int=7))
    expected.lease_token, expected.attempt = "secret", 2
    assert run == expected
