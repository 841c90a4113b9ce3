"""What a step is sent as when its expressions are evaluated, and what happens when they cannot be."""

from __future__ import annotations

import os

import pytest
from structlog.testing import capture_logs

from arcentra_server.db.turns import INTERNAL, MOST_RENDERED
from arcentra_server.domain.definition import GitSource, JobSpec, PipelineSpec, StageSpec, StepSpec
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.secret_names import SecretScope
from arcentra_server.domain.states import RunStatus, StepStatus, TriggerType
from arcentra_server.rpc.convert.dispatch import complete
from arcentra_server.services.secrets import SecretService
from tests.support.world import World, env_of
from tests.support.written import spec_of

LEAN = StepSpec("a1", "shell", args={"script": "a"})


async def test_secret_in_the_address_of_a_source_is_refused_when_it_is_saved(world: World) -> None:
    for source in (GitSource("https://x/${{ secrets.TOKEN }}"), GitSource("https://x/y", "${{ secrets.TOKEN }}")):
        spec = PipelineSpec((StageSpec("default", (JobSpec("a", (LEAN,), source=source),)),), jobs_only=True)
        with pytest.raises(ValidationError, match=r"a secret cannot be used here: use `source\.auth`"):
            await world.pipeline(spec)


async def test_secret_that_got_into_a_stored_source_does_not_stop_its_run(world: World) -> None:
    agent = await world.agent("x")
    await SecretService(world.database, world.server.keys, os.urandom).set(
        SecretScope("default"), "TOKEN", "s3cr3t-value", "tester"
    )
    run = await world.start(
        spec_of("""
        jobs:
          - {name: z, steps: [{name: z1, uses: shell, args: {script: a}}]}
          - name: a
            depends_on: [z]
            source: {type: git, repo: "https://x/${{ run.id }}"}
            steps: [{name: a1, uses: shell, args: {script: a}}]
    """)
    )
    stored = {"env": {}, "args": {"repo": "https://x/${{ secrets.TOKEN }}"}, "image": "", "scripts": []}
    await world.sql(
        "UPDATE step_runs SET templates = $2, secrets = $3 WHERE id = $1",
        await run.step_id("source"),
        stored,
        {"T": "TOKEN"},
    )
    assert await world.work(agent) == ["z1", "source", "a1"]
    assert await run.status() is RunStatus.SUCCESS


async def test_step_that_becomes_too_large_fails_and_says_so(world: World) -> None:
    agent = await world.agent("x")
    pipeline = await world.pipeline(
        spec_of(
            """
        variables: {text: ""}
        jobs:
          - name: a
            steps:
              - name: big
                uses: shell
                args: {command: [echo, TEXTS]}
              - {name: after, uses: shell, when: always(), args: {script: a}}
    """.replace("TEXTS", ", ".join(['"${{ event.text }}"'] * 300))
        )
    )
    trigger = Trigger(TriggerType.EVENT, "hook", event={"text": "x" * 4096})
    started = await world.server.runs.trigger(pipeline, trigger)
    assert await world.work(agent) == ["after"]
    [row] = await world.sql(
        "SELECT id, status, failure_reason, error_message, rendered FROM step_runs WHERE run_id = $1 AND name = 'big'",
        started.run_id,
    )
    assert (row["status"], row["failure_reason"], row["rendered"]) == ("FAILED", "validation", None)
    assert f"more than {MOST_RENDERED}: name fewer or smaller values" in row["error_message"]
    assert int(row["error_message"].split()[3]) > 300 * 4096


async def test_what_is_evaluated_at_one_go_is_bounded_together(world: World) -> None:
    agent = await world.agent("x")
    half = "variables.text.split('').all(c, c != 'b') && size(variables.text) > 1"
    run = await world.start(
        spec_of(
            """
        variables: {text: TEXT}
        jobs:
          - name: a
            outputs: {one: "${{ HALF }}", two: "${{ HALF }}", three: "${{ HALF }}"}
            steps:
              - {name: fine, uses: shell, when: "HALF", env: {A: "${{ HALF }}"}, args: {script: a}}
              - {name: last, uses: shell, args: {script: a}}
          - name: b
            steps: [{name: much, uses: shell, when: "HALF", env: {A: "${{ HALF }}", B: "${{ HALF }}"}, args: {script: a}}]
    """.replace("HALF", half).replace("TEXT", "a" * 4000)
        )
    )
    assert sorted(await world.work(agent)) == ["fine", "last"]
    together = "too many steps: all expressions of a step, or all outputs of a job, may together take"
    much = await run.step("much")
    assert (much.status, much.failure_reason) == (StepStatus.FAILED, "validation")
    assert together in much.error_message
    [first, _] = (await run.row()).jobs
    assert first.outputs == {"one": "true", "two": "true"}
    assert together in first.error_message


async def test_evaluation_that_breaks_fails_its_step_and_nothing_else(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    run = await world.start(
        spec_of("""
        jobs:
          - name: a
            steps:
              - {name: a1, uses: shell, args: {script: a}}
              - {name: a2, uses: shell, args: {script: "${{ run.id }}"}}
          - {name: b, steps: [{name: b1, uses: shell, args: {script: a}}]}
    """)
    )
    await world.sql("""UPDATE step_runs SET templates = '{"env": 1}' WHERE id = $1""", await run.step_id("a2"))
    with capture_logs() as said:
        assert sorted(await world.work(agent)) == ["a1", "b1"]
    step = await run.step("a2")
    assert (step.status, step.failure_reason, step.error_message) == (StepStatus.FAILED, "validation", INTERNAL)
    assert [(line["event"], line["step_run_id"]) for line in said] == [("evaluating_failed", str(step.id))]
    assert await run.states() == "SF S"


async def test_outputs_that_break_leave_the_end_of_their_job_as_it_is(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("""
        jobs:
          - {name: a, outputs: {n: "${{ run.id }}"}, steps: [{name: a1, uses: shell, args: {script: a}}]}
    """)
    )
    await world.sql("""UPDATE job_runs SET output_texts = '{"n": 1}' WHERE run_id = $1""", run.id)
    with capture_logs() as said:
        assert await world.work(agent) == ["a1"]
    assert await run.status() is RunStatus.SUCCESS
    assert (await run.row()).jobs[0].error_message == f"outputs: {INTERNAL}"
    assert [line["event"] for line in said] == ["evaluating_failed"]


async def test_condition_of_a_job_that_breaks_fails_the_job(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("""
        jobs:
          - {name: a, steps: [{name: a1, uses: shell, args: {script: a}}]}
          - {name: b, depends_on: [a], when: "branch == ''", steps: [{name: b1, uses: shell, args: {script: a}}]}
    """)
    )
    await world.sql("UPDATE pipeline_runs SET variables = '[]' WHERE id = $1", run.id)
    with capture_logs() as said:
        assert await world.work(agent) == ["a1"]
    await world.sql("UPDATE pipeline_runs SET variables = '{}' WHERE id = $1", run.id)
    assert (await run.step("b1")).error_message == INTERNAL
    assert await run.states() == "S F"
    assert [line["event"] for line in said] == ["evaluating_failed"]


async def test_secret_that_a_text_names_replaces_no_variable(world: World) -> None:
    agent = await world.agent("x")
    await SecretService(world.database, world.server.keys, os.urandom).set(
        SecretScope("default"), "TOKEN", "s3cr3t-value", "tester"
    )
    await world.start(
        spec_of("""
        jobs:
          - name: a
            steps:
              - name: s1
                uses: http
                env: {TOKEN: written, ARCENTRA_SECRET_TOKEN: written too}
                args: {url: "https://x/?t=${{ secrets.TOKEN }}"}
    """)
    )
    await world.server.schedule()
    step = complete(await world.begin(agent))
    assert dict(step.secrets) == {"ARCENTRA_SECRET_TOKEN_": "s3cr3t-value"}
    assert (step.env["TOKEN"], step.env["ARCENTRA_SECRET_TOKEN"]) == ("written", "written too")


async def test_variable_that_is_set_before_the_turn_of_a_step_is_not_evaluated_any_more(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("""
        jobs:
          - name: a
            steps:
              - {name: a1, uses: shell, args: {script: a}}
              - name: a2
                uses: shell
                env: {MODE: "${{ run.id }}", OTHER: "${{ run.id }}"}
                args: {command: [echo, "${{ env.MODE }}"]}
    """)
    )
    await world.server.steps.update(await run.step_id("a2"), {"MODE": "fast", "NEW": "1"}, None)
    await world.server.schedule()
    await world.end(await world.begin(agent))
    step = complete(await world.begin(agent))
    assert (step.env["MODE"], step.env["OTHER"], step.env["NEW"]) == ("fast", str(run.id), "1")
    assert dict(step.args)["command"] == ["echo", "fast"]


async def test_commit_of_the_clone_is_in_the_environment_of_all_steps_after_it(world: World) -> None:
    agent = await world.agent("x", capacity=2)
    await world.start(
        spec_of("""
        jobs:
          - name: a
            source: {type: git, repo: "https://code/x"}
            steps:
              - {name: a1, uses: shell, args: {script: a}}
              - {name: a2, uses: shell, args: {command: ["${{ env.ARCENTRA_COMMIT }}"]}}
              - {name: a3, uses: shell, env: {ARCENTRA_COMMIT: mine}, args: {command: ["${{ env.ARCENTRA_COMMIT }}"]}}
          - {name: b, depends_on: [a], steps: [{name: b1, uses: shell, args: {script: a}}]}
    """)
    )
    await world.server.schedule()
    source = await world.begin(agent)
    assert env_of(source)["ARCENTRA_COMMIT"] == ""
    await world.end(source, outputs={"commit": "1" * 40})
    for name, commit in (("a1", "1" * 40), ("a2", "1" * 40), ("a3", "mine"), ("b1", "1" * 40)):
        await world.server.schedule()
        sent = await world.begin(agent)
        step = complete(sent)
        assert (step.step_name, step.env["ARCENTRA_COMMIT"]) == (name, commit)
        if "command" in step.args:
            assert dict(step.args)["command"] == [commit]
        await world.end(sent)
