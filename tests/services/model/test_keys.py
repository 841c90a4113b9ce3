"""Concurrency keys: one holder, the oldest first, over all runs of a namespace; released whatever ends the job."""

from __future__ import annotations

import asyncio

import pytest

from arcentra_server.db import concurrency
from arcentra_server.db.engine import Tx
from arcentra_server.domain.execution import JobState, Waiting
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import RunStatus, StepStatus
from arcentra_server.services.pipelines import NewPipeline
from tests.support.world import Run, World
from tests.support.written import spec_of

DEPLOY = """
    jobs:
      - {{name: a, concurrency: prod, {more} steps: [{{name: a1, uses: shell, args: {{script: a}}}}]}}
"""


async def started(world: World, more: str = "", runs: int = 2) -> list[Run]:
    pipeline = await world.pipeline(spec_of(DEPLOY.format(more=more)))
    return [await world.trigger(pipeline) for _ in range(runs)]


async def test_one_job_holds_a_key_and_the_oldest_is_next(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    first, second, third = await started(world, runs=3)
    await world.server.concurrency.run_once()
    assert [await run.states() for run in (first, second, third)] == ["Q", "P", "P"]
    job = (await second.row()).jobs[0]
    assert (job.waits_for, len(job.holders)) == (Waiting.CONCURRENCY, 1)
    assert str(first.id) in job.holders[0]
    claims = await world.server.concurrency.list_claims("default", "prod")
    assert [(claim.run_id, claim.place) for claim in claims] == [(first.id, 0), (second.id, None), (third.id, None)]
    await world.work(agent)
    await world.server.concurrency.run_once()
    assert [await run.states() for run in (first, second, third)] == ["S", "Q", "P"]


async def test_limit(world: World) -> None:
    runs = await started(world, "concurrency_limit: 2,", runs=4)
    await world.server.concurrency.run_once()
    assert [await run.states() for run in runs] == ["Q", "Q", "P", "P"]


async def test_many_servers_give_a_key_once(world: World) -> None:
    runs = await started(world, "concurrency_limit: 2,", runs=6)
    servers = [world.another_server() for _ in range(4)]
    await asyncio.gather(*(server.concurrency.run_once() for server in servers))
    assert [await run.states() for run in runs] == ["Q", "Q", "P", "P", "P", "P"]


async def test_whatever_ends_a_job_releases_its_key(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    runs = await started(world, runs=5)
    for place, end in enumerate(("cancel", "stop", "fail", "lose")):
        await world.server.concurrency.run_once()
        run = runs[place]
        assert await run.states() == "Q"
        if end == "cancel":
            await world.server.runs.cancel_job(await run.job_id("a"), "enough")
        elif end == "stop":
            await world.server.runs.stop(run.id, None, "enough")
        else:
            await world.server.schedule()
            step = await world.begin(agent)
            if end == "fail":
                await world.end(step, StepStatus.FAILED)
            else:
                await world.sql("UPDATE agents SET lease_until = clock_timestamp() - interval '1 s'")
                await world.server.reaper.run_once()
        assert (await run.status()).terminal, end
    await world.server.concurrency.run_once()
    assert await runs[4].states() == "Q"
    assert len(await world.server.concurrency.list_claims("", "")) == 1


async def test_waiter_that_is_stopped_waits_no_more(world: World) -> None:
    first, second, third = await started(world, runs=3)
    await world.server.concurrency.run_once()
    await world.server.runs.stop(second.id, None, "enough")
    claims = await world.server.concurrency.list_claims("default", "")
    assert [claim.run_id for claim in claims] == [first.id, third.id]


async def test_younger_run_cancels_what_is_in_progress(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    first, second, third = await started(world, "cancel_in_progress: true,", runs=3)
    await world.server.concurrency.run_once()
    assert [await run.status() for run in (first, second)] == [RunStatus.CANCELLED, RunStatus.CANCELLED]
    assert await third.states() == "Q"
    await world.server.schedule()
    step = await world.begin(agent)
    fourth = await world.trigger(third.pipeline_id)
    await world.server.concurrency.run_once()
    assert world.server.links.cancels[-1].step_run_id == step.step_run_id
    assert await fourth.states() == "P", "the key is held until the agent has ended the step"
    await world.end(step, StepStatus.CANCELLED)
    await world.server.concurrency.run_once()
    assert (await third.status(), await fourth.states()) == (RunStatus.CANCELLED, "Q")


async def test_keys_of_other_namespaces_are_others(world: World) -> None:
    [first] = await started(world, runs=1)
    new = NewPipeline(spec_of(DEPLOY.format(more="")), namespace="elsewhere")
    second = await world.trigger(await world.server.pipelines.create(new, "tester"))
    await world.server.concurrency.run_once()
    assert (await first.states(), await second.states()) == ("Q", "Q")


async def test_many_jobs_of_a_run_get_their_places_at_once(world: World) -> None:
    jobs = "\n".join(
        f"      - {{name: j{n}, concurrency: prod, concurrency_limit: 30, steps: [{{name: s, uses: shell, args: {{script: a}}}}]}}"
        for n in range(40)
    )
    run = await world.start(spec_of(f"    jobs:\n{jobs}"))
    loads = await counted_loads(world)
    assert await run.states() == " ".join(["Q"] * 30 + ["P"] * 10)
    claims = await world.server.concurrency.list_claims("default", "prod")
    assert [claim.place for claim in claims] == [*range(30), *[None] * 10]
    assert [claim.job_name for claim in claims] == [f"j{n}" for n in range(40)]
    assert loads == 1, "all of a run are given in one change"


async def test_many_keys_of_a_run_are_given_at_once(world: World) -> None:
    jobs = "\n".join(
        f"      - {{name: j{n}, concurrency: key-{n}, steps: [{{name: s, uses: shell, args: {{script: a}}}}]}}"
        for n in range(20)
    )
    run = await world.start(spec_of(f"    jobs:\n{jobs}"))
    assert await counted_loads(world) == 1
    assert await run.states() == " ".join(["Q"] * 20)


async def counted_loads(world: World) -> int:
    """Give keys out; return in how many changes that were written."""
    before = await world.value("SELECT count(DISTINCT xmin::text) FROM concurrency_claims WHERE place IS NOT NULL")
    await world.server.concurrency.run_once()
    after = await world.value("SELECT count(DISTINCT xmin::text) FROM concurrency_claims WHERE place IS NOT NULL")
    return int(after) - int(before)


async def test_waiters_with_other_limits_take_only_what_theirs_allows(world: World) -> None:
    [narrow] = await started(world, runs=1)
    wide = await started(world, "concurrency_limit: 3,", runs=4)
    await world.server.concurrency.run_once()
    assert [await run.states() for run in (narrow, *wide)] == ["Q", "Q", "Q", "P", "P"]
    late = (await started(world, runs=1))[0]
    await world.server.runs.stop(wide[0].id, None, "enough")
    await world.server.concurrency.run_once()
    assert [await run.states() for run in (*wide[1:], late)] == ["Q", "Q", "P", "P"]


async def test_paused_run_takes_no_key(world: World) -> None:
    first, second, third = await started(world, runs=3)
    await world.server.runs.pause(first.id, None, "wait", "tester")
    await world.server.concurrency.run_once()
    assert [await run.states() for run in (first, second, third)] == ["P", "Q", "P"]
    await world.server.runs.resume(first.id, None, "go on", "tester")
    await world.server.runs.stop(second.id, None, "enough")
    await world.server.concurrency.run_once()
    assert [await run.states() for run in (first, third)] == ["Q", "P"]


async def test_paused_run_supersedes_nothing_until_it_is_resumed(world: World) -> None:
    first, second = await started(world, "cancel_in_progress: true,", runs=2)
    await world.server.runs.pause(second.id, None, "wait", "tester")
    await world.server.concurrency.run_once()
    assert [await run.states() for run in (first, second)] == ["Q", "P"]
    await world.server.runs.resume(second.id, None, "go on", "tester")
    await world.server.concurrency.run_once()
    assert (await first.status(), await second.states()) == (RunStatus.CANCELLED, "Q")


async def test_what_supersedes_is_looked_at_again_under_the_lock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = await started(world, "cancel_in_progress: true,", runs=2)
    look = concurrency.superseded

    async def slow(tx: Tx, *more: object) -> object:
        found = await look(tx, *more)  # type: ignore[arg-type]
        await world.server.runs.stop(second.id, None, "enough")
        return found

    monkeypatch.setattr(concurrency, "superseded", slow)
    await world.server.concurrency.run_once()
    assert await first.states() == "Q"


async def test_one_bad_job_keeps_no_other_from_its_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, behind = await started(world, runs=2)
    other = await world.start(spec_of(DEPLOY.format(more="").replace("prod", "test")))
    broken = await bad.job_id("a")
    admit = Ledger.admit_holder

    def fail(self: Ledger, job: JobState) -> None:
        if job.id == broken:
            raise ZeroDivisionError
        admit(self, job)

    monkeypatch.setattr(Ledger, "admit_holder", fail)
    for _ in range(3):
        with pytest.raises(ExceptionGroup) as raised:
            await world.server.concurrency.run_once()
        assert len(raised.value.exceptions) == 1
        assert [await run.states() for run in (bad, behind, other)] == ["P", "P", "Q"]
    await world.server.concurrency.run_once()  # it is passed over from here on
    assert [await run.states() for run in (bad, behind, other)] == ["P", "Q", "Q"]
