"""What travels from step to step: outputs, expressions, secrets, the commit of the run; and what is recorded of it."""

from __future__ import annotations

import os

import asyncpg
import pytest

from arcentra_server.db.deployments import DeploymentFilter
from arcentra_server.db.paging import Page
from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.secret_names import SecretScope
from arcentra_server.domain.states import RunStatus, StepStatus, TriggerType
from arcentra_server.rpc.convert.dispatch import complete
from arcentra_server.services.runs import RetryScope
from arcentra_server.services.secrets import SecretService
from tests.support.world import World, env_of
from tests.support.written import spec_of

CLONES = """
    jobs:
      - {name: a, source: {type: git, repo: "https://code/x", branch: main}, steps: [{name: a1, uses: shell, args: {script: a}}]}
      - {name: b, source: {type: git, repo: "https://code/x", branch: main}, steps: [{name: b1, uses: shell, args: {script: a}}]}
      - {name: c, depends_on: [a], source: {type: git, repo: "https://code/x", branch: main}, steps: [{name: c1, uses: shell, args: {script: a}}]}
      - {name: d, depends_on: [a], source: {type: git, repo: "https://code/y"}, steps: [{name: d1, uses: shell, args: {script: a}}]}
"""


def args_of(dispatch: Dispatch) -> dict[str, object]:
    return dict(complete(dispatch).args)


@pytest.fixture
def outputs_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows with outputs in them each query of other jobs answered."""
    counts: list[int] = []
    fetch = asyncpg.Connection.fetch

    async def counting(connection: asyncpg.Connection, query: str, *values: object) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await fetch(connection, query, *values)
        if "FROM step_runs" not in query:
            counts.append(sum(bool(row.get("outputs")) for row in rows))
        return rows

    monkeypatch.setattr(asyncpg.Connection, "fetch", counting)
    return counts


async def test_outputs_of_a_job_are_read_once_however_many_ask_for_them(world: World, outputs_read: list[int]) -> None:
    agent = await world.agent("x", capacity=20)
    step = "steps: [{name: s, uses: shell, args: {script: a}}]"
    run = await world.start(
        spec_of(f"""
        jobs:
          - {{name: a, outputs: {{n: "${{{{ steps.s.outputs.n }}}}"}}, {step}}}
          - {{name: z, depends_on: [a], {step}}}
          - {{name: plain, depends_on: [a, z], matrix: {{i: [1, 2, 3, 4]}}, {step}}}
          - {{name: always, depends_on: [a, z], when: always(), matrix: {{i: [1, 2, 3, 4]}}, {step}}}
          - name: asks
            depends_on: [a, z]
            when: needs.a.outputs.n == '7'
            matrix: {{i: [1, 2, 3, 4]}}
            steps: [{{name: s, uses: shell, env: {{N: "${{{{ needs.a.outputs.n }}}}"}}, args: {{script: a}}}}]
    """)
    )
    await world.server.schedule()
    await world.end(await world.begin(agent), outputs={"n": "7"})
    await world.server.schedule()
    last = await world.begin(agent)
    outputs_read.clear()
    await world.end(last)
    assert sum(outputs_read) == 2, "for the conditions, and for the texts of the steps"
    assert await run.states() == "S S" + " Q" * 12
    await world.server.schedule()
    assert {env_of(one).get("N") for one in world.take(agent)} == {None, "7"}


async def test_outputs_of_a_job_have_a_size_in_all(world: World) -> None:
    agent = await world.agent("x")
    names = ", ".join(f'o{number}: "${{{{ steps.s.outputs.text }}}}"' for number in range(4))
    run = await world.start(
        spec_of(f"""
        jobs:
          - {{name: a, outputs: {{{names}, last: end}}, steps: [{{name: s, uses: shell, args: {{script: a}}}}]}}
    """)
    )
    await world.server.schedule()
    await world.end(await world.begin(agent), outputs={"text": "x" * 30_000})
    [job] = (await run.row()).jobs
    assert (job.status, list(job.outputs)) == (RunStatus.SUCCESS, ["o0", "o1", "last"])
    assert job.error_message == "output o2: the outputs of the job would have more than 65536 bytes with it"


async def test_outputs_reach_later_steps_and_jobs(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("""
        variables: {who: world}
        jobs:
          - name: a
            outputs: {version: "v${{ steps.s1.outputs.n }}"}
            steps:
              - {name: s1, uses: shell, args: {script: a}}
              - name: s2
                uses: shell
                env: {GREETING: "hello ${{ variables.who }}", N: "${{ steps.s1.outputs.n }}"}
                args: {script: "echo ${{ steps.s1.outputs.n }} ${{ env.N }}", list: ["${{ run.id }}"]}
          - name: b
            depends_on: [a]
            when: needs.a.outputs.version == "v7"
            steps: [{name: b1, uses: shell, args: {command: [echo, "${{ needs.a.outputs.version }}"]}}]
    """)
    )
    await world.server.schedule()
    await world.end(await world.begin(agent), outputs={"n": "7"})
    second = await world.begin(agent)
    step = complete(second)
    assert step.env["GREETING"] == "hello world"
    assert step.env["N"] == "7"
    assert step.args["list"] == [str(run.id)]
    assert "${{" not in str(step.args["script"])
    assert "7" in {value for name, value in step.env.items() if name.startswith("ARCENTRA_EXPR")}
    await world.end(second)
    await world.server.schedule()
    third = await world.begin(agent)
    assert args_of(third) == {"command": ["echo", "v7"]}
    await world.end(third)
    assert (await run.row()).jobs[0].outputs == {"version": "v7"}
    assert await run.status() is RunStatus.SUCCESS


async def test_variables_of_a_trigger_are_never_evaluated(world: World) -> None:
    agent = await world.agent("x")
    pipeline = await world.pipeline(
        spec_of("""
        variables: {text: "plain"}
        jobs:
          - name: a
            steps: [{name: a1, uses: shell, env: {T: "${{ variables.text }}"}, args: {script: "echo ${{ env.T }}"}}]
    """)
    )
    text = '${{ secrets.KEY }} ${{ 1 + 1 }} "; rm -rf / #'
    trigger = Trigger(TriggerType.MANUAL, "tester", variables={"text": text})
    await world.server.runs.trigger(pipeline, trigger)
    await world.server.schedule()
    step = complete(world.take_one(agent))
    assert (step.env["text"], step.env["T"]) == (text, text)
    assert "rm -rf" not in str(step.args)


async def test_secrets_reach_the_steps_that_name_them_and_nothing_else(world: World) -> None:
    agent = await world.agent("x")
    secrets = SecretService(world.database, world.server.keys, os.urandom)
    await secrets.set(SecretScope("default"), "TOKEN", "s3cr3t-value", "tester")
    await secrets.set(SecretScope(""), "OTHER", "never-used", "tester")
    run = await world.start(
        spec_of("""
        jobs:
          - name: a
            steps:
              - {name: s1, uses: shell, secrets: [TOKEN], args: {script: a}}
              - {name: s2, uses: http, args: {url: "https://x/?t=${{ secrets.TOKEN }}"}}
              - {name: s3, uses: shell, args: {script: a}}
    """)
    )
    await world.server.schedule()
    first = await world.begin(agent)
    assert dict(complete(first).secrets) == {"TOKEN": "s3cr3t-value"}
    assert b"s3cr3t-value" not in first.payload
    await world.end(first)
    second = await world.begin(agent)
    assert args_of(second) == {"url": "https://x/?t=s3cr3t-value"}
    assert dict(complete(second).secrets) == {"ARCENTRA_SECRET_TOKEN": "s3cr3t-value"}
    assert b"s3cr3t-value" not in second.payload
    assert "s3cr3t" not in repr(second)
    await world.end(second)
    third = await world.begin(agent)
    assert not complete(third).secrets
    await world.end(third)
    stored = await world.sql(
        "SELECT s::text AS step, (SELECT string_agg(e::text, '') FROM events e) AS events FROM step_runs s"
    )
    assert not any("s3cr3t" in row["step"] or "s3cr3t" in row["events"] for row in stored)
    assert await run.status() is RunStatus.SUCCESS


async def test_step_whose_secret_is_not_set_fails_and_says_so(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("jobs: [{name: a, steps: [{name: s1, uses: shell, secrets: {T: NONE}, args: {script: a}}]}]")
    )
    assert await world.work(agent) == []
    step = await run.step("s1")
    assert (step.status, step.failure_reason, step.error_message) == (
        StepStatus.FAILED,
        "validation",
        "secret NONE is not set",
    )


async def test_secret_that_is_deleted_before_the_dispatch_fails_its_step_alone(world: World) -> None:
    secrets = SecretService(world.database, world.server.keys, os.urandom)
    await secrets.set(SecretScope("default"), "TOKEN", "s3cr3t-value", "tester")
    run = await world.start(
        spec_of("""
        jobs:
          - {name: a, steps: [{name: s1, uses: shell, secrets: [TOKEN], args: {script: a}}]}
          - {name: b, steps: [{name: b1, uses: shell, args: {script: a}}]}
    """)
    )
    await secrets.delete(SecretScope("default"), "TOKEN")
    agent = await world.agent("x", capacity=2)
    assert await world.work(agent) == ["b1"]
    assert (await run.step("s1")).error_message == "secret TOKEN: is not set"
    assert await run.states() == "F S"


async def test_all_jobs_of_a_run_see_one_commit(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    run = await world.start(spec_of(CLONES))
    await world.server.schedule()
    first, second = world.take(agent)
    for dispatch in (first, second):
        assert await world.report(dispatch, StepStatus.RUNNING) is None
        assert "commit" not in args_of(dispatch)
    await world.end(first, outputs={"commit": "1" * 40, "branch": "main"})
    assert (await run.row()).commit_sha == "1" * 40
    # Somebody pushed between the two clones: the second job begins again, with the commit of the run.
    await world.end(second, outputs={"commit": "2" * 40, "branch": "main"})
    assert await run.states() == "SQ QP PP PP"
    await world.server.schedule()
    sent = {complete(dispatch).job_name: dispatch for dispatch in world.take(agent)}
    assert args_of(sent["b"])["commit"] == "1" * 40
    assert sent["b"].attempt == 2
    assert (await run.row()).jobs[1].attempt == 2
    for dispatch in sent.values():
        assert await world.report(dispatch, StepStatus.RUNNING) is None
        await world.end(dispatch, outputs={"commit": "1" * 40} if complete(dispatch).step_name == "source" else {})
    await world.server.schedule()
    sent = {complete(dispatch).job_name: dispatch for dispatch in world.take(agent)}
    assert args_of(sent["c"])["commit"] == "1" * 40
    assert "commit" not in args_of(sent["d"]), "the commit of one repository says nothing of another"


async def test_outputs_of_an_earlier_attempt_are_gone_when_the_job_is_skipped(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("""
        jobs:
          - {name: a, steps: [{name: a1, uses: shell, args: {script: a}}]}
          - name: b
            depends_on: [a]
            outputs: {x: "${{ 'first' }}"}
            steps: [{name: b1, uses: shell, args: {script: a}}]
          - name: c
            depends_on: [b]
            when: always() && !has(needs.b.outputs.x)
            steps: [{name: c1, uses: shell, args: {script: a}}]
    """)
    )
    assert await world.work(agent) == ["a1", "b1"]
    assert (await run.row()).jobs[1].outputs == {"x": "first"}
    await world.server.runs.retry(run.id, RetryScope.ALL)
    assert (await run.row()).jobs[1].outputs == {}
    assert await world.work(agent, {"a1": StepStatus.FAILED}) == ["a1", "c1"]


MATRIX_NEED = """
    jobs:
      - {name: m, matrix: {v: [1, 2]}, steps: [{name: m1, uses: shell, args: {script: a}}]}
      - name: b
        depends_on: [m]
        outputs: {x: "${{ needs.m.result }}", y: "${{ steps.b1.outputs.q }}"}
        steps: [{name: b1, uses: shell, args: {script: a}}]
"""


async def test_cells_that_have_not_ended_are_no_end_of_what_is_needed(world: World) -> None:
    await world.agent("x", capacity=2)
    run = await world.start(spec_of(MATRIX_NEED))
    await world.server.runs.cancel_job(await run.job_id("b"), "")
    cancelled = (await run.row()).jobs[2]
    assert (cancelled.status, cancelled.outputs) == (RunStatus.CANCELLED, {"x": "pending"})


async def test_outputs_of_a_job_that_was_ended_are_no_fault_of_it(world: World) -> None:
    agent = await world.agent("x", capacity=2)
    run = await world.start(spec_of(MATRIX_NEED))
    await world.server.runs.stop(run.id, None, "")
    assert [job.error_message for job in (await run.row()).jobs] == ["", "", ""]
    again = await world.trigger(run.pipeline_id)
    await world.work(agent)
    ended = (await again.row()).jobs[2]
    assert (ended.status, ended.outputs) == (RunStatus.SUCCESS, {"x": "success"})
    assert ended.error_message.startswith("output y: invalid expression")


async def test_agent_that_does_not_clone_what_it_is_told_fails_the_job(world: World) -> None:
    agent = await world.agent("x", capacity=2)
    run = await world.start(spec_of("".join(CLONES.splitlines(keepends=True)[:4])))
    told = []
    for number in range(4):
        await world.server.schedule()
        sent = world.take(agent)
        for dispatch in sent:
            assert await world.report(dispatch, StepStatus.RUNNING) is None
        for place, dispatch in enumerate(sent):
            told.append(args_of(dispatch).get("commit"))
            await world.end(dispatch, outputs={"commit": f"c{number}{place}"})
    row = await run.row()
    assert (await run.states(), row.jobs[1].attempt) == ("SS Fx", 2)
    assert told.count("c00") == 1
    assert "though it was told to clone c00" in row.jobs[1].error_message


async def test_deployments_are_recorded(world: World) -> None:
    agent = await world.agent("x")
    spec = spec_of("""
        jobs:
          - name: a
            steps: [{name: a1, uses: shell, args: {script: a}}]
            target: {type: command, config: {script: ./deploy, name: production}}
    """)
    run = await world.start(spec)
    assert await world.work(agent, {"target": StepStatus.FAILED}) == ["a1", "target"]
    again = await world.trigger(run.pipeline_id)
    await world.work(agent)
    skipped = await world.trigger(run.pipeline_id)
    await world.work(agent, {"a1": StepStatus.FAILED})
    rows, total = await world.server.runs.list_deployments(DeploymentFilter(target="production"), Page())
    assert total == 2
    assert [(row.run_id, row.status, row.type, row.job_name) for row in rows] == [
        (again.id, StepStatus.SUCCESS, "command", "a"),
        (run.id, StepStatus.FAILED, "command", "a"),
    ]
    assert await skipped.states() == "Fx"


async def test_notifications_are_queued_with_the_end_of_their_job(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("""
        jobs:
          - name: a
            notify:
              on_success: {plugin: slack, args: {url: "${{ secrets.HOOK }}"}}
              on_failure: {plugin: slack, args: {url: "${{ secrets.HOOK }}"}}
            steps: [{name: a1, uses: shell, args: {script: a}}]
          - name: b
            notify: {on_success: {plugin: slack, args: {url: "${{ secrets.HOOK }}"}}}
            steps: [{name: b1, uses: shell, args: {script: a}}]
    """)
    )
    await world.work(agent, {"a1": StepStatus.FAILED, "b1": StepStatus.FAILED})
    rows = await world.sql("SELECT job_name, outcome FROM notifications WHERE run_id = $1", run.id)
    assert [tuple(row) for row in rows] == [("a", "failure")]


async def test_branch_of_a_trigger_is_never_evaluated(world: World) -> None:
    agent = await world.agent("x")
    secrets = SecretService(world.database, world.server.keys, os.urandom)
    await secrets.set(SecretScope("default"), "TOKEN", "s3cr3t-value", "tester")
    pipeline = await world.pipeline(spec_of(CLONES.split("      - {name: b", maxsplit=1)[0]))
    trigger = Trigger(TriggerType.EVENT, "tester", branch="${{secrets.TOKEN}}", commit_sha="${{secrets.TOKEN}}")
    await world.server.runs.trigger(pipeline, trigger)
    await world.server.schedule()
    step = complete(world.take_one(agent))
    assert (step.args["branch"], step.args["commit"]) == ("${{secrets.TOKEN}}", "${{secrets.TOKEN}}")
    assert not step.secrets


async def test_runs_of_forks_get_no_secrets(world: World) -> None:
    agent = await world.agent("x")
    secrets = SecretService(world.database, world.server.keys, os.urandom)
    await secrets.set(SecretScope("default"), "TOKEN", "s3cr3t-value", "tester")
    pipeline = await world.pipeline(
        spec_of("""
        jobs:
          - {name: a, steps: [{name: a1, uses: shell, args: {script: a}}]}
          - {name: b, steps: [{name: b1, uses: shell, secrets: [TOKEN], args: {script: a}}]}
    """)
    )
    trigger = Trigger(TriggerType.EVENT, "tester", event={"kind": "pull_request", "fork": True})
    run_id = (await world.server.runs.trigger(pipeline, trigger)).run_id
    assert await world.work(agent) == ["a1"]
    [step] = (await world.server.runs.get(run_id)).jobs[1].steps
    assert step.error_message == "secrets are not given to a run of code that comes from a fork"
