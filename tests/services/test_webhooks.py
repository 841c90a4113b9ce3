"""Deliveries on a real database: signed or not, new or not, for these triggers or others, and cut short anywhere."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from arcentra_server.db.paging import Page
from arcentra_server.db.run_starter import Started
from arcentra_server.domain.definition import CronTrigger, EventTrigger
from arcentra_server.domain.errors import NotFound, Unauthenticated, Unavailable, ValidationError
from arcentra_server.domain.forge import Forge
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.matching import PATHS_UNKNOWN
from arcentra_server.domain.states import TriggerType
from arcentra_server.domain.trigger_entries import TriggerOutcome
from arcentra_server.services.pipelines import PipelineChange
from arcentra_server.services.triggers import TriggerService
from tests.support.clock import FakeClock
from tests.support.deliveries import NAMES, SECRET, delivery, generic, signature
from tests.support.dying import Fuse, Killed
from tests.support.hooks import PUSH, Hooks
from tests.support.world import World

HEAD = "ec26c3e57ca3a959ca5aad62de7213c562f8c821"
ANYTHING = EventTrigger(("push", "tag", "pull_request"))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock("2026-11-26T12:00:00")


@pytest.fixture
def hooks(world: World, clock: FakeClock) -> Hooks:
    return Hooks(world, clock)


@pytest.mark.parametrize("name", NAMES)
async def test_documented_deliveries(hooks: Hooks, name: str) -> None:
    """Right, wrong and missing signature of each body of each code host."""
    one = delivery(name)
    hook = await hooks.hook(one.forge)
    await hooks.pipeline(ANYTHING)
    [header] = signature(one.forge, b"", "")
    for bad in (one.signed("not the secret at all"), one.without(header)):
        with pytest.raises(Unauthenticated, match=r"^bad signature$"):
            await hooks.deliver(hook, bad)
    answer = await hooks.deliver(hook, one)
    starts = not name.endswith(("skip_ci", "deleted", "closed", "ping", "labelled", "create"))
    assert answer.outcome is (TriggerOutcome.FIRED if starts else TriggerOutcome.FILTERED)
    assert len(answer.runs) == await hooks.runs() == int(starts)
    refused, last = await hooks.entries()
    assert (refused.outcome, refused.reason, refused.count) == (TriggerOutcome.REFUSED, "bad signature", 2)
    assert (last.outcome, bool(last.reason), last.run_id) == (
        answer.outcome,
        not starts,
        answer.runs[0] if starts else None,
    )
    assert last.hook_id == hook.id


async def test_a_push_starts_a_run(hooks: Hooks, world: World, clock: FakeClock) -> None:
    hook = await hooks.hook(Forge.GITHUB)
    trigger = EventTrigger(("push",), branches=("main",), variables={"MODE": "ci"})
    pipeline = await hooks.pipeline(CronTrigger("0 0 1 1 *"), trigger, name="build")
    answer = await hooks.deliver(hook, delivery("github_push"))
    [run_id] = answer.runs
    run = await world.server.runs.get(run_id)
    assert (run.pipeline_id, run.trigger_type, run.triggered_by, run.branch, run.commit_sha, run.variables) == (
        pipeline,
        TriggerType.EVENT,
        "ada",
        "main",
        HEAD,
        {"MODE": "ci"},
    )
    stored = await world.sql("SELECT trigger_actor, event FROM pipeline_runs")
    assert stored[0]["trigger_actor"] == "github:21031067"
    assert (stored[0]["event"]["kind"], stored[0]["event"]["paths"][0]) == ("push", "docs/corners.md")
    [entry] = await hooks.entries(pipeline)
    assert (entry.type, entry.namespace, entry.pipeline_name, entry.trigger_index, entry.summary) == (
        TriggerType.EVENT,
        "default",
        "build",
        1,
        "push main ec26c3e",
    )
    assert entry.delivery_id == delivery("github_push").headers["x-github-delivery"]
    rows = await hooks.ledger.list_triggers(pipeline_id=pipeline, namespace="")
    assert [(row.last_run_id, row.last_fired_at) for row in rows] == [(None, None), (run_id, clock.now)]
    [row] = await hooks.service.list_all("")
    assert row.last_delivery_at == clock.now


async def test_code_from_a_fork_is_said_to_be(hooks: Hooks, world: World) -> None:
    await hooks.pipeline(ANYTHING)
    for name in ("github_pull_request_fork", "gitlab_merge_request_fork", "gitea_pull_request_fork"):
        one = delivery(name)
        assert (await hooks.deliver(await hooks.hook(one.forge), one)).outcome is TriggerOutcome.FIRED
    rows = await world.sql("SELECT event->'fork' AS fork, branch FROM pipeline_runs ORDER BY created_at")
    assert [tuple(row) for row in rows] == [
        (True, "refs/pull/12/head"),
        (True, "refs/merge-requests/7/head"),
        (True, "refs/pull/3/head"),
    ]


async def test_the_ledger_tells_which_rule(hooks: Hooks) -> None:
    hook = await hooks.hook(Forge.GITHUB)
    two = await hooks.pipeline(
        EventTrigger(("push",), branches=("release/**",)), EventTrigger(("push",), paths=("web/**",)), name="two"
    )
    several = await hooks.pipeline(EventTrigger(("tag",)), PUSH, EventTrigger(("pull_request",)), name="several")
    deaf = await hooks.pipeline(EventTrigger(("tag",)), EventTrigger(("pull_request",)), name="deaf")
    off = await hooks.pipeline(PUSH, name="off", enabled=False)
    await hooks.pipeline(CronTrigger("0 0 1 1 *"), name="unconcerned")
    other = await hooks.pipeline(PUSH, name="other", namespace="elsewhere")
    answer = await hooks.deliver(hook, delivery("github_push"))
    assert (answer.outcome, len(answer.runs)) == (TriggerOutcome.FIRED, 1)
    assert sorted(await hooks.told(two)) == [
        "FILTERED branches: main does not pass release/**",
        "FILTERED paths: none of 3 changed files passes web/**",
    ]
    assert await hooks.told(several) == ["FIRED"]
    assert await hooks.told(deaf) == ["FILTERED events: push is not one of tag"]
    assert await hooks.told(off) == ["REFUSED the pipeline is disabled"]
    assert await hooks.told(other) == []
    assert len(await hooks.entries()) == 5


async def test_a_rule_for_paths_that_cannot_be_applied_is_told(hooks: Hooks) -> None:
    await hooks.pipeline(EventTrigger(("push", "pull_request"), paths=("web/**",)))
    for name in ("gitlab_push_many", "github_pull_request"):
        one = delivery(name)
        await hooks.deliver(await hooks.hook(one.forge), one)
    assert await hooks.told() == [f"FIRED {PATHS_UNKNOWN}"] * 2


async def test_a_hook_of_one_pipeline(hooks: Hooks) -> None:
    mine, other = await hooks.pipeline(), await hooks.pipeline()
    hook = await hooks.hook(Forge.GITHUB, pipeline=mine)
    assert len((await hooks.deliver(hook, delivery("github_push"))).runs) == 1
    assert [await hooks.told(pipeline) for pipeline in (mine, other)] == [["FIRED"], []]
    bare = await hooks.world.pipeline(".")
    hook = await hooks.hook(Forge.GITEA, pipeline=bare)
    answer = await hooks.deliver(hook, delivery("gitea_push"))
    assert answer.reason == "the pipeline of the hook has no event trigger"
    assert await hooks.told(bare) == ["FILTERED the pipeline of the hook has no event trigger"]


async def test_deliveries_that_concern_nobody(hooks: Hooks) -> None:
    hook = await hooks.hook(Forge.GITHUB, namespace="empty")
    answers = [await hooks.deliver(hook, delivery(name)) for name in ("github_push", "github_ping")]
    assert {answer.outcome for answer in answers} == {TriggerOutcome.FILTERED}
    assert await hooks.told() == [
        "FILTERED no pipeline of namespace 'empty' has an event trigger",
        "FILTERED a ping: the hook works",
    ]
    assert [entry.pipeline_id for entry in await hooks.entries()] == [None, None]


async def test_the_same_delivery_again(hooks: Hooks, clock: FakeClock) -> None:
    """By its id, and by its body: the id is not signed (security.md, S30)."""
    await hooks.pipeline()
    hook = await hooks.hook(Forge.GITHUB)
    one = delivery("github_push")
    first = await hooks.deliver(hook, one)
    again = [
        one,
        one.with_headers(x_github_delivery="another id"),
        one.without("x-github-delivery"),
        delivery("github_push_tag").with_headers(x_github_delivery=one.headers["x-github-delivery"]),
    ]
    for repeated in again:
        clock.go_on(hours=1)
        answer = await hooks.deliver(hook, repeated)
        assert (answer.outcome, answer.first, answer.runs) == (TriggerOutcome.DUPLICATE, first.outcome, first.runs)
    assert await hooks.runs() == 1
    fired, repeated_entry = await hooks.entries()
    assert (repeated_entry.outcome, repeated_entry.count) == (TriggerOutcome.DUPLICATE, 4)
    assert repeated_entry.reason == "the same delivery came before: FIRED"
    # It is another hook's first, and the same hook's after a week.
    other = await hooks.hook(Forge.GITHUB, name="other")
    assert (await hooks.deliver(other, one)).outcome is TriggerOutcome.FIRED
    clock.go_on(days=7)
    await TriggerService(hooks.world.database, clock=clock).prune()
    assert (await hooks.deliver(hook, one)).outcome is TriggerOutcome.FIRED
    assert fired.run_id == first.runs[0]


async def test_what_was_filtered_is_not_looked_at_again(hooks: Hooks, world: World) -> None:
    pipeline = await hooks.pipeline(EventTrigger(("push",), branches=("release/**",)))
    hook = await hooks.hook(Forge.GITHUB)
    assert (await hooks.deliver(hook, delivery("github_push"))).outcome is TriggerOutcome.FILTERED
    await world.server.pipelines.update(pipeline, PipelineChange(triggers=(PUSH,)), "alice")
    answer = await hooks.deliver(hook, delivery("github_push"))
    assert (answer.outcome, answer.first) == (TriggerOutcome.DUPLICATE, TriggerOutcome.FILTERED)
    assert await hooks.runs() == 0


async def test_deliveries_in_any_order(hooks: Hooks) -> None:
    await hooks.pipeline(EventTrigger(("push", "tag", "pull_request")))
    for names in (["github_push_tag", "github_push"], ["gitlab_merge_request_fork", "gitlab_merge_request"]):
        one = delivery(names[0])
        hook = await hooks.hook(one.forge)
        for name in names:
            assert (await hooks.deliver(hook, delivery(name))).outcome is TriggerOutcome.FIRED
    assert await hooks.runs() == 4


async def test_the_same_delivery_many_times_at_once(hooks: Hooks) -> None:
    for _ in range(3):
        await hooks.pipeline()
    hook = await hooks.hook(Forge.GITEA)
    one = delivery("gitea_push")
    answers = await asyncio.gather(*(hooks.deliver(hook, one) for _ in range(6)))
    assert sorted(answer.outcome for answer in answers) == ["DUPLICATE"] * 5 + ["FIRED"]
    assert await hooks.runs() == 3


async def test_two_secrets_while_one_is_replaced(hooks: Hooks, clock: FakeClock) -> None:
    hook = await hooks.hook(Forge.GITHUB)
    old, new, newest = SECRET, await hooks.service.rotate(hook.id, ""), "yet another secret"

    async def takes(secret: str, number: int) -> bool:
        body = delivery("github_ping")
        one = body.with_headers(x_github_delivery=f"{number}")
        try:
            await hooks.deliver(hook, one.signed(secret))
        except Unauthenticated:
            return False
        return True

    assert [await takes(secret, 1) for secret in (old, new, newest)] == [True, True, False]
    clock.go_on(hours=23, minutes=59)
    assert await takes(old, 2)
    clock.go_on(minutes=1)
    assert [await takes(secret, 3) for secret in (old, new)] == [False, True]
    await hooks.service.rotate(hook.id, newest)
    assert [await takes(secret, 4) for secret in (old, new, newest)] == [False, True, True]
    # Two at a time: another change ends the one that is two steps old.
    await hooks.service.rotate(hook.id, "one more of them")
    assert [await takes(secret, 5) for secret in (new, newest, "one more of them")] == [False, True, True]


async def test_refusals_fill_nothing(hooks: Hooks, clock: FakeClock) -> None:
    hook = await hooks.hook(Forge.GITHUB)
    bad = delivery("github_push").signed("not the secret at all")
    for minute in range(2):
        for number in range(20):
            with pytest.raises(Unauthenticated):
                await hooks.deliver(hook, bad.with_headers(x_github_delivery=f"{minute} {number}"))
        clock.go_on(minutes=1)
    broken = replace(delivery("github_push"), body=b"not JSON").signed(SECRET)
    with pytest.raises(ValidationError, match="set the content type of the hook to application/json"):
        await hooks.deliver(hook, broken)
    entries = await hooks.entries()
    assert [(entry.reason.partition(":")[0], entry.count) for entry in entries] == [
        ("bad signature", 20),
        ("bad signature", 20),
        ("malformed", 1),
    ]
    assert await hooks.world.value("SELECT count(*) FROM hook_deliveries") == 0


async def test_generic_hooks(hooks: Hooks, world: World) -> None:
    await hooks.pipeline(EventTrigger(("deploy",), branches=("main",)))
    hook = await hooks.hook(Forge.GENERIC)
    one = generic({"event": "deploy", "branch": "main", "actor": "cronbox", "build": 7})
    assert (await hooks.deliver(hook, one)).outcome is TriggerOutcome.FIRED
    assert (await hooks.deliver(hook, generic({"event": "deploy", "build": 8}))).outcome is TriggerOutcome.FILTERED
    [row] = await world.sql("SELECT event, variables, triggered_by FROM pipeline_runs")
    assert (row["event"]["payload"]["build"], row["variables"], row["triggered_by"]) == (7, {}, "cronbox")


async def test_servers_that_die_between_any_two_steps(hooks: Hooks, clock: FakeClock) -> None:
    """What was taken is finished by the next; what was not taken is taken when it is sent again. Nothing runs twice."""
    first, second = await hooks.pipeline(), await hooks.pipeline()
    steps = 0
    while True:
        hook = await hooks.hook(Forge.GITHUB, name=f"hook-{steps}")
        before = await hooks.runs()
        one = delivery("github_push")
        fuse = Fuse(steps)
        try:
            await hooks.webhooks(fuse=fuse).deliver(hook, one.headers, one.body)
        except Killed:
            assert fuse.burnt
        clock.go_on(seconds=61)
        await hooks.webhooks().resume()
        await hooks.deliver(hook, one)
        assert await hooks.runs() - before == 2, steps
        assert [(await hooks.told(pipeline)).count("FIRED") for pipeline in (first, second)] == [steps + 1] * 2, steps
        if not fuse.burnt:
            break
        steps += 1
    assert steps >= 12
    assert await hooks.world.value("SELECT count(*) FROM hook_deliveries WHERE outcome IS NULL") == 0


async def test_a_delivery_that_is_being_worked_on_is_not_taken_up(hooks: Hooks, clock: FakeClock, world: World) -> None:
    await hooks.pipeline()
    hook = await hooks.hook(Forge.GITHUB)
    one = delivery("github_push")
    seen: list[int | TriggerOutcome] = []

    async def slow(pipeline_id: UUID, trigger: Trigger) -> Started:
        clock.go_on(seconds=59)
        seen.append(await hooks.webhooks().resume())
        seen.append((await hooks.deliver(hook, one)).outcome)
        clock.go_on(seconds=1)
        seen.append(await hooks.webhooks().resume())
        return await world.server.starter.start(pipeline_id, trigger)

    answer = await hooks.webhooks(slow).deliver(hook, one.headers, one.body)
    assert seen == [0, TriggerOutcome.DUPLICATE, 1]
    assert await hooks.runs() == 1
    assert (await hooks.deliver(hook, one)).runs == answer.runs


async def test_a_delivery_that_cannot_be_finished_is_given_up(hooks: Hooks, clock: FakeClock) -> None:
    pipeline = await hooks.pipeline()
    hook = await hooks.hook(Forge.GITHUB, pipeline=pipeline)
    one = delivery("github_push")

    async def away(_: UUID, __: Trigger) -> Started:
        raise Unavailable("the database is away")

    with pytest.raises(Unavailable):
        await hooks.webhooks(away).deliver(hook, one.headers, one.body)
    for _ in range(2):
        clock.go_on(seconds=61)
        with pytest.raises(Unavailable):
            await hooks.webhooks(away).resume()
    clock.go_on(seconds=61)
    assert await hooks.webhooks(away).resume() == 1
    assert await hooks.told(pipeline) == ["REFUSED given up after 3 tries: the server's log says more"]
    assert (await hooks.deliver(hook, one)).first is TriggerOutcome.REFUSED


async def test_one_bad_pipeline_keeps_no_other_from_its_run(hooks: Hooks, world: World) -> None:
    broken, good = await hooks.pipeline(name="a"), await hooks.pipeline(name="b")
    hook = await hooks.hook(Forge.GITHUB)
    one = delivery("github_push")

    async def start(pipeline_id: UUID, trigger: Trigger) -> Started:
        if pipeline_id == broken:
            raise ZeroDivisionError
        return await world.server.starter.start(pipeline_id, trigger)

    answer = await hooks.webhooks(start).deliver(hook, one.headers, one.body)
    assert (answer.outcome, len(answer.runs)) == (TriggerOutcome.FIRED, 1)
    assert await hooks.told(broken) == ["REFUSED internal error: the server's log says more"]
    assert await hooks.told(good) == ["FIRED"]


async def test_a_hook_that_is_deleted_meanwhile(hooks: Hooks) -> None:
    await hooks.pipeline()
    hook = await hooks.hook(Forge.GITLAB)
    await hooks.deliver(hook, delivery("gitlab_push_tag"))
    await hooks.service.delete(hook.id)
    with pytest.raises(NotFound, match="no such hook"):
        await hooks.webhooks().find(hook.id)
    with pytest.raises(Unauthenticated):  # its secrets went with it
        await hooks.deliver(hook, delivery("gitlab_push"))
    assert await hooks.world.value("SELECT count(*) FROM hook_deliveries") == 0
    entries = await hooks.entries()
    assert [entry.hook_id for entry in entries] == [hook.id] * len(entries)


async def test_entries_by_filter(hooks: Hooks, clock: FakeClock) -> None:
    first = await hooks.hook(Forge.GITHUB, namespace="one")
    second = await hooks.hook(Forge.GITEA, namespace="two")
    pipeline = await hooks.pipeline(namespace="two")
    await hooks.deliver(first, delivery("github_push"))
    clock.go_on(seconds=1)
    await hooks.deliver(second, delivery("gitea_push"))

    async def found(**wanted: object) -> tuple[int, int]:
        everything = {"pipeline_id": None, "namespace": "", "hook_id": None, "outcome": None, "page": Page()}
        rows, total = await hooks.ledger.list_events(**{**everything, **wanted})  # type: ignore[arg-type]
        return len(rows), total

    assert await found() == (2, 2)
    assert await found(namespace="one") == (1, 1)
    assert await found(hook_id=second.id) == (1, 1)
    assert await found(pipeline_id=pipeline, outcome=TriggerOutcome.FIRED) == (1, 1)
    assert await found(namespace="one", outcome=TriggerOutcome.FIRED) == (0, 0)
    assert await found(page=Page(number=2, size=1)) == (1, 2)
    newest, _ = await hooks.ledger.list_events(pipeline_id=None, namespace="", hook_id=None, outcome=None, page=Page())
    assert newest[0].at - newest[1].at == timedelta(seconds=1)
