"""Gates: reached in their turn, decided once by those who may, bound to what was approved."""

from __future__ import annotations

from typing import Any

import pytest

from arcentra_server.db.approvals import ApprovalFilter, ApprovalRow
from arcentra_server.db.paging import Page
from arcentra_server.domain.definition import StepSpec
from arcentra_server.domain.errors import Forbidden, InvalidTransition
from arcentra_server.domain.execution import Waiting
from arcentra_server.domain.identity import Caller, Role
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import ApprovalState, RunStatus, StepStatus
from arcentra_server.services.approvals import Decision
from arcentra_server.services.runs import RetryScope
from arcentra_server.services.step_runs import AddedStep
from tests.support.world import Run, World
from tests.support.written import spec_of

STAGES = """
    stages:
      - name: build
        jobs: [{{name: a, steps: [{{name: a1, uses: shell, args: {{script: a}}}}]}}]
      - name: deploy
        approval: {{{approval}}}
        jobs: [{{name: b, steps: [{{name: b1, uses: shell, args: {{script: a}}}}]}}]
      - name: clean
        jobs: [{{name: c, when: always(), steps: [{{name: c1, uses: shell, args: {{script: a}}}}]}}]
"""
JOBS = """
    jobs:
      - {name: a, approval: {approvers: [ann]}, steps: [{name: a1, uses: shell, args: {script: a}}]}
      - {name: b, depends_on: [a], when: always(), steps: [{name: b1, uses: shell, args: {script: a}}]}
      - {name: c, steps: [{name: c1, uses: shell, args: {script: a}}]}
"""
ANN, BOB, CAT = (Caller(f"id-{name}", name, Role.APPROVER) for name in ("ann", "bob", "cat"))


async def gates(world: World, **wanted: Any) -> list[ApprovalRow]:
    rows, total = await world.server.approvals.list_page(ApprovalFilter(**wanted), Page())
    assert total == len(rows)
    return rows


async def vote(world: World, gate: ApprovalRow, caller: Caller, *, approved: bool = True, **more: Any) -> ApprovalRow:
    return await world.server.approvals.decide(Decision(gate.id, approved=approved, **more), caller)


async def at_the_gate(world: World, approval: str = "needed: 1") -> tuple[Run, ApprovalRow]:
    agent = await world.agent("x", capacity=9)
    run = await world.start(spec_of(STAGES.format(approval=approval)))
    assert await gates(world) == []
    assert await world.work(agent) == ["a1"]
    [gate] = await gates(world, run_id=run.id, state=ApprovalState.PENDING)
    return run, gate


async def test_stage_waits_at_its_gate_and_goes_on_when_approved(world: World) -> None:
    run, gate = await at_the_gate(world)
    row = await run.row()
    assert (await run.states(), [job.waits_for for job in row.jobs[1:]]) == ("S P P", [Waiting.APPROVAL, Waiting.STAGE])
    assert [one.id for one in row.gates] == [gate.id]
    assert (gate.stage, gate.job_name, gate.needed, gate.state) == ("deploy", None, 1, ApprovalState.PENDING)
    decided = await vote(world, gate, ANN, comment="looks good")
    assert decided.state is ApprovalState.APPROVED
    assert [(one.voter, one.approved, one.comment) for one in decided.votes] == [("ann", True, "looks good")]
    agent = next(iter(world.server.links.online))
    assert await world.work(agent) == ["b1", "c1"]
    assert await run.status() is RunStatus.SUCCESS


async def test_refused_gate_is_a_wall(world: World) -> None:
    run, gate = await at_the_gate(world)
    assert (await vote(world, gate, ANN, approved=False)).state is ApprovalState.REJECTED
    assert (await run.states(), await run.status()) == ("S x x", RunStatus.FAILED)
    assert (await run.row()).status_reason == "the approval was refused"


async def test_gate_is_decided_once_and_a_repetition_answers_the_same(world: World) -> None:
    _, gate = await at_the_gate(world)
    first = await vote(world, gate, ANN)
    assert await vote(world, gate, ANN) == first
    for caller, approved in ((ANN, False), (BOB, True), (BOB, False)):
        with pytest.raises(InvalidTransition, match="approval already decided"):
            await vote(world, gate, caller, approved=approved)


async def test_as_many_as_it_needs_of_those_it_names(world: World) -> None:
    run, gate = await at_the_gate(world, "approvers: [ann, bob], needed: 2")
    with pytest.raises(Forbidden, match="not an approver"):
        await vote(world, gate, CAT)
    assert (await vote(world, gate, ANN)).state is ApprovalState.PENDING
    assert (await vote(world, gate, ANN)).state is ApprovalState.PENDING
    assert (await run.states()) == "S P P"
    assert (await vote(world, gate, BOB)).state is ApprovalState.APPROVED
    assert (await run.states()) == "S Q P"


async def test_who_triggered_may_not_approve_where_the_two_are_separate(world: World) -> None:
    _, gate = await at_the_gate(world, "separation: true")
    await world.sql("UPDATE pipeline_runs SET trigger_actor = 'ann'")
    with pytest.raises(Forbidden, match="not an approver"):
        await vote(world, gate, ANN)
    assert (await vote(world, gate, BOB)).state is ApprovalState.APPROVED


async def test_a_person_is_a_name_whatever_tokens_carry_it(world: World) -> None:
    run, gate = await at_the_gate(world, "approvers: [ann, bob], needed: 2, separation: true")
    await world.sql("UPDATE pipeline_runs SET trigger_actor = 'bob'")
    assert (await vote(world, gate, ANN)).state is ApprovalState.PENDING
    again = Caller("another-token", "ann", Role.ADMIN)
    assert (await vote(world, gate, again)).state is ApprovalState.PENDING, "one person has one vote"
    with pytest.raises(InvalidTransition, match="already decided"):
        await vote(world, gate, again, approved=False)
    with pytest.raises(Forbidden, match="not an approver"):
        await vote(world, gate, Caller("another-token", "bob", Role.ADMIN))
    assert await run.states() == "S P P"


async def test_who_retries_a_run_may_not_approve_it_either(world: World) -> None:
    run, gate = await at_the_gate(world, "separation: true")
    await vote(world, gate, ANN, approved=False)
    await world.server.runs.retry(run.id, RetryScope.FAILED, "bob")
    [again] = await gates(world, state=ApprovalState.PENDING)
    with pytest.raises(Forbidden, match="not an approver"):
        await vote(world, again, BOB)
    assert (await vote(world, again, ANN)).state is ApprovalState.APPROVED
    assert await run.states() == "S Q P"


async def test_what_stands_behind_a_gate_does_not_change(world: World) -> None:
    run, gate = await at_the_gate(world)
    evil = StepSpec("evil", uses="shell", args={"script": "evil"})
    for approved in (False, True):
        for job in ("b", "c"):
            with pytest.raises(InvalidTransition, match="stands behind an approval"):
                await world.server.steps.create(AddedStep(evil, job_id=await run.job_id(job)), "eve")
            with pytest.raises(InvalidTransition, match="stands behind an approval"):
                await world.server.steps.update(await run.step_id(f"{job}1"), {"LD_PRELOAD": "evil"}, None)
        if not approved:
            await vote(world, gate, ANN)


async def test_gate_is_bound_to_definition_and_commit(world: World) -> None:
    _, gate = await at_the_gate(world)
    with pytest.raises(InvalidTransition, match="another definition"):
        await vote(world, gate, ANN, spec_digest=b"x" * 32)
    with pytest.raises(InvalidTransition, match="another commit"):
        await vote(world, gate, ANN, commit_sha="abc")
    assert (await vote(world, gate, ANN, spec_digest=gate.spec_digest)).state is ApprovalState.APPROVED


async def test_gate_that_nobody_decides_counts_as_refused(world: World) -> None:
    run, gate = await at_the_gate(world, "timeout: 1h")
    assert gate.expires_at is not None
    await world.server.approvals.expire()
    assert (await run.states()) == "S P P"
    await world.sql("UPDATE approvals SET expires_at = clock_timestamp() - interval '1 s'")
    with pytest.raises(InvalidTransition, match="nobody decided in time"):  # before the loop has looked, too
        await vote(world, gate, ANN)
    await world.server.approvals.expire()
    assert [one.state for one in await gates(world)] == [ApprovalState.EXPIRED]
    assert (await run.states(), await run.status()) == ("S x x", RunStatus.FAILED)
    assert (await run.row()).status_reason == "the approval has expired: nobody decided in time"
    with pytest.raises(InvalidTransition, match="nobody did in time"):
        await vote(world, gate, ANN)


async def test_job_whose_gate_nobody_decides_says_so_and_forgets_it_when_it_is_retried(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    run = await world.start(spec_of(JOBS))
    await world.work(agent)
    await world.sql("UPDATE approvals SET expires_at = clock_timestamp() - interval '1 s'")
    await world.server.approvals.expire()
    await world.work(agent)
    row = await run.row()
    assert (row.status, row.status_reason) == (RunStatus.FAILED, "the approval has expired: nobody decided in time")
    assert row.jobs[0].error_message == row.status_reason
    await world.server.runs.retry(run.id, RetryScope.FAILED)
    assert (await run.row()).status_reason == ""


async def test_run_that_is_stopped_drops_its_gate(world: World) -> None:
    run, gate = await at_the_gate(world)
    await world.server.runs.stop(run.id, None, "enough")
    assert await run.status() is RunStatus.CANCELLED
    assert [one.state for one in await gates(world)] == [ApprovalState.CANCELLED]
    with pytest.raises(InvalidTransition, match="approval already decided: nothing waits behind it"):
        await vote(world, gate, ANN)


async def test_job_waits_at_its_gate_before_what_depends_on_it(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    run = await world.start(spec_of(JOBS))
    assert sorted(await world.work(agent)) == ["a1", "c1"]
    job = (await run.row()).jobs[0]
    assert (job.status, job.waits_for, await run.states()) == (RunStatus.RUNNING, Waiting.APPROVAL, "S P S")
    [gate] = await gates(world)
    assert gate.job_name == "a"
    with pytest.raises(Forbidden):
        await vote(world, gate, BOB)
    await vote(world, gate, ANN)
    assert await world.work(agent) == ["b1"]
    assert await run.status() is RunStatus.SUCCESS


async def test_refused_job_fails_and_nothing_behind_it_runs(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    run = await world.start(spec_of(JOBS))
    await world.work(agent)
    [gate] = await gates(world)
    await vote(world, gate, ANN, approved=False)
    row = await run.row()
    assert (await run.states(), row.status) == ("S x S", RunStatus.FAILED)
    assert (row.jobs[0].status, row.jobs[0].failure_reason) == (RunStatus.FAILED, "rejected")


async def test_failed_job_asks_nobody(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    run = await world.start(spec_of(JOBS))
    await world.work(agent, {"a1": StepStatus.FAILED})
    assert await gates(world) == []
    assert await run.states() == "F x S", "and nothing passes its gate"
    await world.server.runs.retry(run.id, RetryScope.FAILED)
    await world.work(agent)
    assert await run.states() == "S P S"


async def test_job_that_was_allowed_to_fail_waits_at_its_gate(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    run = await world.start(spec_of(JOBS.replace("{name: a,", "{name: a, allow_failure: true,")))
    await world.work(agent, {"a1": StepStatus.FAILED})
    assert await run.states() == "F P S"
    [gate] = await gates(world)
    await vote(world, gate, ANN)
    assert await world.work(agent) == ["b1"]
    assert (await run.states(), await run.status()) == ("F S S", RunStatus.PARTIAL)


async def test_later_stage_is_behind_the_gate_of_a_job_that_failed(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    run = await world.start(". .[gate] .[needs=b;when=a] | .[when=a] | .[when=a] .")
    await world.work(agent, {"b1": StepStatus.FAILED})
    assert (await run.states(), await run.status()) == ("S F x x x x", RunStatus.FAILED)


async def test_retry_asks_again(world: World) -> None:
    run, gate = await at_the_gate(world)
    await vote(world, gate, ANN, approved=False)
    await world.server.runs.retry(run.id, RetryScope.FAILED)
    [again] = await gates(world, state=ApprovalState.PENDING)
    assert again.id != gate.id
    await vote(world, again, ANN)
    agent = next(iter(world.server.links.online))
    assert await world.work(agent) == ["b1", "c1"]
    assert await run.status() is RunStatus.SUCCESS


async def test_gate_before_the_first_stage(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("""
        stages:
          - name: one
            approval: {needed: 1}
            jobs: [{name: a, steps: [{name: a1, uses: shell, args: {script: a}}]}]
    """)
    )
    assert await world.work(agent) == []
    [gate] = await gates(world)
    await vote(world, gate, ANN)
    assert await world.work(agent) == ["a1"]
    assert await run.status() is RunStatus.SUCCESS


async def test_one_bad_gate_keeps_no_other_from_expiring(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = await at_the_gate(world, "timeout: 1h")
    other = await world.start(spec_of(JOBS))
    await world.work(next(iter(world.server.links.online)))
    await world.sql("UPDATE approvals SET expires_at = clock_timestamp() - interval '1 s' WHERE run_id = $1", run.id)
    await world.sql("UPDATE approvals SET expires_at = clock_timestamp() - interval '1 ms' WHERE run_id = $1", other.id)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Ledger, "pass_stage_gate", fail)
    for _ in range(3):
        with pytest.raises(ExceptionGroup):
            await world.server.approvals.expire()
        assert (await run.states(), await other.status()) == ("S P P", RunStatus.FAILED)
    await world.server.approvals.expire()  # it is passed over from here on
