"""The order of jobs: what they depend on, their conditions, matrices and tolerances."""

from __future__ import annotations

import asyncpg
import pytest

from arcentra_server.domain.execution import Waiting
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.states import RunStatus, StepStatus, TriggerType
from tests.support.world import World, env_of
from tests.support.written import spec_of

DIAMOND = """
    jobs:
      - {name: a, steps: [{name: a1, uses: shell, args: {script: "true"}}]}
      - {name: b, depends_on: [a], steps: [{name: b1, uses: shell, args: {script: "true"}}]}
      - {name: c, depends_on: [a], steps: [{name: c1, uses: shell, args: {script: "true"}}]}
      - {name: d, depends_on: [b, c], steps: [{name: d1, uses: shell, args: {script: "true"}}]}
"""


async def test_jobs_follow_what_they_depend_on(world: World) -> None:
    agent = await world.agent("x", capacity=4)
    run = await world.start(spec_of(DIAMOND))
    assert await run.states() == "Q P P P"
    waiting = [(job.waits_for, job.open_needs) for job in (await run.row()).jobs]
    assert waiting[1:] == [(Waiting.NEEDS, ["a"]), (Waiting.NEEDS, ["a"]), (Waiting.NEEDS, ["b", "c"])]
    await world.server.schedule()
    await world.end(await world.begin(agent))
    assert await run.states() == "S Q Q P"
    assert (await run.row()).jobs[3].open_needs == ["b", "c"]
    assert sorted(await world.work(agent)) == ["b1", "c1", "d1"]
    assert (await run.states(), await run.status()) == ("S S S S", RunStatus.SUCCESS)


async def test_failed_need_skips_what_depends_on_it_and_nothing_else(world: World) -> None:
    agent = await world.agent("x", capacity=4)
    run = await world.start(spec_of(DIAMOND))
    await world.work(agent, {"b1": StepStatus.FAILED})
    assert (await run.states(), await run.status()) == ("S F S x", RunStatus.FAILED)


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queries that were run, as far as they answer rows."""
    seen: list[str] = []
    fetch = asyncpg.Connection.fetch

    async def noting(connection: asyncpg.Connection, query: str, *values: object) -> object:
        seen.append(query)
        return await fetch(connection, query, *values)

    monkeypatch.setattr(asyncpg.Connection, "fetch", noting)
    return seen


async def test_chain_is_skipped_with_as_many_queries_however_long_it_is(world: World, queries: list[str]) -> None:
    agent = await world.agent("x", capacity=4)
    asked = []
    for length in (3, 20):
        run = await world.start(". " + " ".join(f".[needs={name}]" for name in "abcdefghijklmnopqrstu"[:length]))
        await world.server.schedule()
        first = await world.begin(agent)
        queries.clear()
        await world.end(first, StepStatus.FAILED)
        asked.append(len(queries))
        assert await run.states() == "F" + " x" * length
    assert asked[0] == asked[1]


@pytest.fixture
def rows_of_needs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each query answered that is about what depends on what."""
    counts: list[int] = []
    fetch = asyncpg.Connection.fetch

    async def counting(connection: asyncpg.Connection, query: str, *values: object) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await fetch(connection, query, *values)
        if "job_needs" in query:
            counts.append(len(rows))
        return rows

    monkeypatch.setattr(asyncpg.Connection, "fetch", counting)
    return counts


async def test_end_of_one_need_among_many_loads_what_depends_on_it_and_no_more(
    world: World, rows_of_needs: list[int]
) -> None:
    """Cells by cells: each failure is one for every cell behind it, all edges are looked at once, when the last one ends."""
    agent = await world.agent("x", capacity=9)
    cells = "matrix: {i: [1, 2, 3, 4, 5]}, steps: [{name: s, uses: shell, args: {script: a}}]"
    needs = {"a": "", "b": "depends_on: [a], ", "c": "depends_on: [b], "}
    jobs = "\n".join(f"      - {{name: {name}, {needed}{cells}}}" for name, needed in needs.items())
    run = await world.start(spec_of(f"    jobs:\n{jobs}\n"))
    await world.server.schedule()
    sent = world.take(agent)
    for dispatch in sent:
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    for number, dispatch in enumerate(sent, 1):
        rows_of_needs.clear()
        await world.end(dispatch, StepStatus.FAILED if number % 2 else StepStatus.SUCCESS)
        # In the end: the edges to b, those from b to c, and both again from the other side.
        assert sum(rows_of_needs) == (5 if number < 5 else 5 + 25 + 25 + 25)
    assert await run.states() == " ".join("FSFSF" + "x" * 10)


async def test_what_needs_two_that_are_skipped_is_skipped_with_few_queries(world: World, queries: list[str]) -> None:
    """Two by two: each needs both before it, so that no chain leads from one to the next."""
    agent = await world.agent("x", capacity=4)
    asked = []
    for levels in (2, 9):
        names = [chr(ord("a") + number) for number in range(2 * levels + 2)]
        pairs = [",".join(names[2 * level : 2 * level + 2]) for level in range(levels)]
        run = await world.start(". . " + " ".join(f".[needs={pair}] .[needs={pair}]" for pair in pairs))
        await world.server.schedule()
        for dispatch in world.take(agent):
            assert await world.report(dispatch, StepStatus.RUNNING) is None
            queries.clear()
            await world.end(dispatch, StepStatus.FAILED)
        asked.append(len(queries))
        assert await run.states() == "F F" + " x x" * levels
    assert asked[1] - asked[0] == 7, "one a level"


async def test_skipped_chain_ends_where_a_condition_says_otherwise(world: World) -> None:
    agent = await world.agent("x", capacity=4)
    run = await world.start(". .[needs=a] . .[needs=b,c] .[needs=d;when=a] .[needs=d;when=c] .[needs=e]")
    assert sorted(await world.work(agent, {"a1": StepStatus.FAILED})) == ["a1", "c1", "e1"]
    assert (await run.states(), await run.status()) == ("F x S x S x x", RunStatus.FAILED)


async def test_secrets_of_all_steps_whose_turn_it_is_are_looked_up_together(world: World, queries: list[str]) -> None:
    asked = []
    for number in (2, 12):
        job = "- {name: j%d, steps: [{name: s1, uses: shell, secrets: [NO%d], args: {script: a}}]}"
        jobs = "\n".join(f"      {job % (one, one)}" for one in range(number))
        queries.clear()
        run = await world.start(spec_of(f"    jobs:\n{jobs}\n"))
        asked.append(sum("FROM secrets" in query for query in queries))
        errors = [job.steps[0].error_message for job in (await run.row()).jobs]
        assert errors == [f"secret NO{one} is not set" for one in range(number)]
    assert asked == [1, 1]


async def test_conditions_of_jobs(world: World) -> None:
    agent = await world.agent("x", capacity=8)
    run = await world.start(
        spec_of("""
        variables: {deploy: "no"}
        stages:
          - name: build
            jobs:
              - {name: broken, steps: [{name: s1, uses: shell, args: {script: "true"}}]}
              - {name: skipped, depends_on: [broken], steps: [{name: s2, uses: shell, args: {script: "true"}}]}
              - {name: behind, depends_on: [skipped], when: failure(), steps: [{name: s3, uses: shell, args: {script: a}}]}
              - {name: always, depends_on: [skipped], when: always(), steps: [{name: s4, uses: shell, args: {script: a}}]}
              - {name: never, when: 'variables.deploy == "yes"', steps: [{name: s5, uses: shell, args: {script: a}}]}
          - name: clean
            jobs:
              - {name: tell, when: failure(), steps: [{name: s6, uses: shell, args: {script: a}}]}
              - {name: publish, steps: [{name: s7, uses: shell, args: {script: a}}]}
              - {name: tidy, when: always(), steps: [{name: s8, uses: shell, args: {script: a}}]}
    """)
    )
    done = await world.work(agent, {"s1": StepStatus.FAILED})
    assert sorted(done) == ["s1", "s3", "s4", "s6", "s8"]
    assert await run.states() == "F x S S x S x S"
    assert await run.status() is RunStatus.FAILED


async def test_skipped_need_is_no_success(world: World) -> None:
    agent = await world.agent("x", capacity=8)
    run = await world.start(
        spec_of("""
        jobs:
          - {name: a, when: "false", steps: [{name: a1, uses: shell, args: {script: a}}]}
          - {name: b, depends_on: [a], steps: [{name: b1, uses: shell, args: {script: a}}]}
          - {name: c, depends_on: [a], when: failure(), steps: [{name: c1, uses: shell, args: {script: a}}]}
          - {name: d, depends_on: [a], when: '!failure() && needs.a.result == "skipped"', steps: [{name: d1, uses: shell, args: {script: a}}]}
    """)
    )
    assert await world.work(agent) == ["d1"]
    assert (await run.states(), await run.status()) == ("x x x S", RunStatus.SUCCESS)


async def test_tolerated_job_makes_a_run_partial_and_holds_nothing(world: World) -> None:
    agent = await world.agent("x", capacity=8)
    run = await world.start(
        spec_of("""
        stages:
          - name: one
            jobs:
              - {name: a, allow_failure: true, steps: [{name: a1, uses: shell, args: {script: a}}]}
              - {name: b, depends_on: [a], steps: [{name: b1, uses: shell, args: {script: a}}]}
          - name: two
            jobs: [{name: c, steps: [{name: c1, uses: shell, args: {script: a}}]}]
    """)
    )
    await world.work(agent, {"a1": StepStatus.FAILED})
    assert (await run.states(), await run.status()) == ("F S S", RunStatus.PARTIAL)
    assert (await run.row()).failed_jobs == 1


async def test_matrix_runs_a_job_for_each_cell(world: World) -> None:
    agent = await world.agent("x", capacity=8)
    run = await world.start(
        spec_of("""
        jobs:
          - name: test
            matrix: {os: [linux, mac], py: ["3.11", "3.12"], exclude: [{os: mac, py: "3.11"}], include: [{os: bsd, py: "3.13"}]}
            outputs: {where: "${{ steps.t.outputs.at }}"}
            steps: [{name: t, uses: shell, args: {script: "echo ${{ matrix.os }}", command: x}}]
          - name: report
            depends_on: [test]
            steps: [{name: r, uses: shell, env: {AT: "${{ needs.test.outputs.where }}"}, args: {script: a}}]
    """)
    )
    names = [job.name for job in (await run.row()).jobs]
    assert names == ["test (linux, 3.11)", "test (linux, 3.12)", "test (mac, 3.12)", "test (bsd, 3.13)", "report"]
    await world.server.schedule()
    for place, dispatch in enumerate(world.take(agent)):
        assert await world.report(dispatch, StepStatus.RUNNING) is None
        await world.end(dispatch, outputs={"at": f"place {place}"})
    await world.server.schedule()
    [report] = world.take(agent)
    assert env_of(report)["AT"] == "place 3"


async def test_conditions_of_steps_and_what_cleans_up(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("""
        jobs:
          - name: a
            steps:
              - {name: s1, uses: shell, args: {script: a}}
              - {name: s2, uses: shell, when: 'steps.s1.outputs.go == "yes"', args: {script: a}}
              - {name: s3, uses: shell, when: 'steps.s1.outputs.go == "no"', args: {script: a}}
              - {name: s4, uses: shell, args: {script: a}}
              - {name: s5, uses: shell, when: failure(), args: {script: a}}
              - {name: s6, uses: shell, when: always(), args: {script: a}}
              - {name: s7, uses: shell, when: cancelled(), args: {script: a}}
    """)
    )
    await world.server.schedule()
    first = await world.begin(agent)
    await world.end(first, outputs={"go": "yes"})
    assert await world.work(agent, {"s2": StepStatus.FAILED}) == ["s2", "s5", "s6"]
    assert (await run.states(), await run.status()) == ("SFxxSSx", RunStatus.FAILED)


async def test_expression_that_cannot_be_evaluated_fails_the_step_and_names_itself(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("""
        jobs:
          - name: a
            steps:
              - {name: s1, uses: shell, args: {script: a}}
              - {name: s2, uses: shell, when: 'steps.s1.outputs.missing == "x"', args: {script: a}}
              - {name: s3, uses: shell, when: always(), args: {script: a}}
    """)
    )
    assert await world.work(agent) == ["s1", "s3"]
    step = await run.step("s2")
    assert (step.status, step.failure_reason) == (StepStatus.FAILED, "validation")
    assert "col" in step.error_message
    assert "missing" in step.error_message
    assert await run.status() is RunStatus.FAILED


async def test_trigger_warns_of_jobs_that_no_agent_can_serve(world: World) -> None:
    pipeline = await world.pipeline(
        spec_of("""
        jobs:
          - {name: a, steps: [{name: a1, uses: shell, args: {script: a}}]}
          - name: b
            agent_selector: {match_labels: {os: linux, arch: arm64}}
            steps: [{name: b1, uses: shell, args: {script: a}}]
    """)
    )
    by = Trigger(TriggerType.MANUAL, "tester", request_id="once")
    alone = await world.server.runs.trigger(pipeline, Trigger(TriggerType.MANUAL, "tester"))
    assert [fault.message for fault in alone.warnings] == ["no agent is registered: a run waits until one joins"]
    await world.agent("x", os="linux")
    started = await world.server.runs.trigger(pipeline, by)
    assert [(fault.path, fault.message) for fault in started.warnings] == [
        (
            "jobs[1].agent_selector",
            "no registered agent can serve this job: nearest is `x`, which lacks arch=arm64",
        )
    ]
    again = await world.server.runs.trigger(pipeline, by)
    assert (again.run_id, again.warnings) == (started.run_id, ())
