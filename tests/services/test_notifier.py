"""The outbox: what is put in it by the end of a job, how it is emptied, and what is left when a server is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from arcentra_server.db.paging import Page
from arcentra_server.domain.definition import NotificationSpec, NotifySpec, PipelineSpec
from arcentra_server.domain.deliveries import Delivery, Message, WebhookMessage
from arcentra_server.domain.secret_box import KeyRing
from arcentra_server.domain.secret_names import SecretScope
from arcentra_server.domain.states import RunStatus, StepStatus
from arcentra_server.notify_process import NotifyProcesses, NotifySettings
from arcentra_server.services.notifier import Notifier, Sender
from arcentra_server.services.secrets import SecretService
from tests.support.hook_server import hook_server
from tests.support.post import SENT, Post
from tests.support.shapes import shape
from tests.support.world import Run, World

FAILED = Delivery(delivered=False, error="cannot connect", duration_ms=7)
FOREVER = replace(FAILED, permanent=True)
HOOK = NotificationSpec(
    "webhook", args={"url": "https://hooks.example.com/x", "text": "job ${{ job.name }} on ${{ branch }}"}
)
BOTH = NotifySpec(on_success=HOOK, on_failure=HOOK)


@dataclass
class BlackHole:
    """Takes messages and never answers."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, _: Message) -> Delivery:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


def notifier(world: World, sender: Sender, **more: Any) -> Notifier:
    return Notifier(world.database, world.server.vault, sender, lambda: 0.5, **more)


def told(notify: NotifySpec, notation: str = ".") -> PipelineSpec:
    """A pipeline whose first job tells of its end."""
    spec = shape(notation)
    [first, *others] = spec.stages[0].jobs
    stage = replace(spec.stages[0], jobs=(replace(first, notify=notify), *others))
    return replace(spec, stages=(stage, *spec.stages[1:]))


async def ended(world: World, notify: NotifySpec = BOTH, status: StepStatus = StepStatus.SUCCESS) -> Run:
    """Run a pipeline of one job to its end."""
    run = await world.start(told(notify))
    agent = await world.agent("x")
    await world.work(agent, {"a1": status})
    return run


async def log(world: World) -> list[tuple[str, list[tuple[bool, str]]]]:
    """The state of each notification, and its attempts."""
    rows, _ = await notifier(world, Post()).list_page(pipeline_id=None, run_id=None, page=Page())
    return [(row.state, [(attempt.delivered, attempt.error) for attempt in row.attempts]) for row in rows]


async def pause(world: World) -> float | None:
    """Seconds until the next attempt; what is due is due at once afterwards."""
    rows = await world.sql("SELECT extract(epoch FROM next_at - clock_timestamp())::float8 AS s FROM notifications")
    await world.sql("UPDATE notifications SET next_at = clock_timestamp() WHERE state = 'pending'")
    return None if rows[0]["s"] is None else float(rows[0]["s"])


async def lapse(world: World) -> None:
    await world.sql("UPDATE notifications SET claimed_until = clock_timestamp() WHERE claimed_until IS NOT NULL")


# What goes into the outbox


@pytest.mark.parametrize(
    ("status", "notify", "events"),
    [
        (StepStatus.SUCCESS, BOTH, ["job.success"]),
        (StepStatus.FAILED, BOTH, ["job.failure"]),
        (StepStatus.SUCCESS, NotifySpec(on_failure=HOOK), []),
        (StepStatus.FAILED, NotifySpec(on_success=HOOK), []),
    ],
)
async def test_end_of_a_job_is_told(world: World, status: StepStatus, notify: NotifySpec, events: list[str]) -> None:
    run = await ended(world, notify, status)
    post = Post()
    await notifier(world, post, run_url="https://ci.example.com/runs/{run_id}").run_once()
    assert [
        message.headers["X-Arcentra-Event"] for message in post.sent if isinstance(message, WebhookMessage)
    ] == events
    for message in post.sent:
        assert isinstance(message, WebhookMessage)
        for part in (str(run.id), f"https://ci.example.com/runs/{run.id}", "job a on", f'"status":"{status}"'):
            assert part in message.body
    assert await log(world) == [("sent", [(True, "")]) for _ in events]
    await notifier(world, post).run_once()
    assert len(post.sent) == len(events)


async def test_skipped_and_stopped_jobs_are_not_told(world: World) -> None:
    run = await world.start(told(BOTH))
    await world.server.runs.stop(run.id, None, "enough")
    assert await run.status() is RunStatus.CANCELLED
    assert await log(world) == []


async def test_what_is_told_is_the_end_it_was_queued_for(world: World) -> None:
    """The job runs again before anything was sent."""
    run = await ended(world, NotifySpec(on_failure=HOOK), StepStatus.FAILED)
    await world.server.steps.retry(await run.step_id("a1"))
    post = Post()
    await notifier(world, post).run_once()
    [message] = post.sent
    assert isinstance(message, WebhookMessage)
    assert '"status":"FAILED"' in message.body


# Secrets and expressions


async def _hold(world: World, name: str, value: str) -> None:
    keys = KeyRing({"test": b"s" * 32})
    await SecretService(world.database, keys, os.urandom).set(SecretScope(), name, value, "tester")


async def test_secrets_are_filled_in_when_it_is_sent_and_are_stored_nowhere(world: World) -> None:
    hook = NotificationSpec(
        "webhook",
        args={
            "url": "https://hooks.example.com/${{ secrets.PATH_PART }}",
            "secret": "${{ secrets.SIGNING }}",
            "headers": {"Authorization": "Bearer ${{ secrets.SIGNING }}"},
            "text": "${{ variables.text }}",
        },
    )
    await _hold(world, "PATH_PART", "a-path-part")
    await _hold(world, "SIGNING", "first-value")
    run = await world.start(replace(told(NotifySpec(on_success=hook)), variables={"text": ""}))
    await world.work(await world.agent("x"))
    await world.sql("UPDATE pipeline_runs SET variables = $1", {"text": "${{ secrets.SIGNING }}"})
    post = Post([FAILED])
    sender = notifier(world, post)
    await sender.run_once()
    await _hold(world, "SIGNING", "second-value")
    await pause(world)
    await sender.run_once()
    first, second = post.sent
    assert isinstance(first, WebhookMessage)
    assert isinstance(second, WebhookMessage)
    assert first.url == second.url == "https://hooks.example.com/a-path-part"
    assert (first.headers["Authorization"], second.headers["Authorization"]) == (
        "Bearer first-value",
        "Bearer second-value",
    )
    # A value that looks like a reference is not one.
    assert "${{ secrets.SIGNING }}" in first.body
    stored = await world.value("SELECT string_agg(t::text, '') FROM notifications t WHERE run_id = $1", run.id)
    assert "first-value" not in stored
    assert "a-path-part" not in stored


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"url": "${{ secrets.GONE }}"}, "there is no secret 'GONE'"),
        ({"url": "https://example.com/", "text": "${{ variables.nothing }}"}, "invalid expression"),
        ({"url": "${{ variables.address }}"}, "args.url is not the address of a webhook: https://HOST/PATH"),
    ],
)
async def test_what_cannot_be_made_is_given_up_at_once(world: World, args: dict[str, str], error: str) -> None:
    spec = NotifySpec(on_success=NotificationSpec("webhook", args=args))
    run = await world.start(replace(told(NotifySpec(on_success=HOOK)), variables={"address": "ftp://hunter2/"}))
    await world.work(await world.agent("x"))
    # As if it had been stored by a version that checked less.
    await world.sql("UPDATE notifications SET args = $1", dict(spec.on_success.args) if spec.on_success else {})
    post = Post()
    await notifier(world, post).run_once()
    assert post.sent == []
    [(state, [(delivered, said)])] = await log(world)
    assert (state, delivered) == ("failed", False)
    assert error in said
    assert "hunter2" not in said
    assert await run.status() is RunStatus.SUCCESS


async def test_secret_that_does_not_open_is_tried_again(world: World) -> None:
    await _hold(world, "HOOK", "https://hooks.example.com/")
    await world.sql("UPDATE secrets SET sealed = sealed || '\\x00'::bytea")
    await ended(world, NotifySpec(on_success=NotificationSpec("webhook", args={"url": "${{ secrets.HOOK }}"})))
    post = Post()
    await notifier(world, post).run_once()
    [(state, [(delivered, said)])] = await log(world)
    assert (state, delivered, post.sent) == ("pending", False, [])
    assert said


# Attempts


async def test_pauses_grow_and_it_is_given_up(world: World) -> None:
    run = await ended(world)
    post = Post([FAILED] * 10)
    sender = notifier(world, post)
    pauses = []
    for _ in range(8):
        await sender.run_once()
        await sender.run_once()  # not before its time
        pauses.append(await pause(world))
    assert [seconds and round(seconds / 10) * 10 for seconds in pauses] == [10, 60, 300, 1_800, 7_200, None, None, None]
    assert len(post.sent) == 6
    assert await log(world) == [("failed", [(False, "cannot connect")] * 6)]
    assert await run.status() is RunStatus.SUCCESS


async def test_permanent_error_ends_it(world: World) -> None:
    await ended(world)
    post = Post([FOREVER])
    await notifier(world, post).run_once()
    assert await log(world) == [("failed", [(False, "cannot connect")])]
    assert len(post.sent) == 1


async def test_bad_ones_keep_no_other_from_being_sent(world: World) -> None:
    agent = await world.agent("x")
    for _ in range(4):
        await world.start(told(BOTH))
    await world.work(agent)
    first, second = [row["id"] for row in await world.sql("SELECT id FROM notifications ORDER BY next_at LIMIT 2")]
    # One that nothing can be made of, and one that cannot even be read.
    await world.sql("UPDATE notifications SET args = '[1]' WHERE id = $1", first)
    await world.sql("UPDATE notifications SET job_status = 'NONSENSE' WHERE id = $1", second)
    post = Post()
    await notifier(world, post, lanes=1).run_once()
    assert len(post.sent) == 2
    states = await world.sql("SELECT state, count(*) FROM notifications GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in states] == [("pending", 2), ("sent", 2)]
    assert {said for _, attempts in await log(world) for _, said in attempts if said} == {
        "internal error: AttributeError",
        "internal error: ValueError",
    }


# Servers that end, and several of them


async def test_server_that_is_killed_while_it_sends_is_followed_by_another(world: World) -> None:
    await ended(world)
    hole = BlackHole()
    task = asyncio.get_running_loop().create_task(notifier(world, hole).run_once())
    await hole.asked.wait()
    post = Post()
    await notifier(world, post).run_once()
    assert post.sent == []  # somebody is at it
    task.cancel()
    await asyncio.wait([task])
    await notifier(world, post).run_once()
    assert post.sent == []  # nobody knows that nobody is
    await lapse(world)
    await notifier(world, post).run_once()
    assert len(post.sent) == 1
    assert await log(world) == [
        ("sent", [(False, "the server ended before it knew what came of it"), (True, "")]),
    ]


async def test_one_that_ends_every_server_is_given_up(world: World) -> None:
    await ended(world)
    for _ in range(6):
        hole = BlackHole()
        task = asyncio.get_running_loop().create_task(notifier(world, hole).run_once())
        await hole.asked.wait()
        task.cancel()
        await asyncio.wait([task])
        await lapse(world)
    post = Post()
    await notifier(world, post).run_once()
    assert post.sent == []
    assert await log(world) == [("failed", [(False, "the server ended before it knew what came of it")] * 6)]


@dataclass
class Overtaken:
    """Is so slow that its claim lapses and another server sends the same before it answers."""

    world: World
    answer: Delivery
    other: Post

    async def send(self, _: Message) -> Delivery:
        await lapse(self.world)
        await notifier(self.world, self.other, lanes=1).run_once()
        return self.answer


@pytest.mark.parametrize(
    ("late", "early", "state"),
    [(SENT, SENT, "sent"), (FAILED, SENT, "sent"), (SENT, FAILED, "sent"), (FAILED, FAILED, "pending")],
)
async def test_late_answer_takes_nothing_back(world: World, late: Delivery, early: Delivery, state: str) -> None:
    await ended(world)
    await notifier(world, Overtaken(world, late, Post([early])), lanes=1).run_once()
    [(found, attempts)] = await log(world)
    assert found == state
    assert [delivered for delivered, _ in attempts] == [late.delivered, early.delivered]
    if state == "pending":
        assert 50 < (await pause(world) or 0) < 70  # that of the second attempt


async def test_servers_share_the_work(world: World) -> None:
    agent = await world.agent("x")
    for _ in range(12):
        await world.start(told(BOTH))
    await world.work(agent)
    posts = [Post() for _ in range(3)]
    await asyncio.gather(*(notifier(world, post, lanes=2).run_once() for post in posts))
    keys = [
        message.headers["X-Arcentra-Delivery"]
        for post in posts
        for message in post.sent
        if isinstance(message, WebhookMessage)
    ]
    assert len(keys) == len(set(keys)) == 12


# By the real process


@pytest.fixture
async def processes() -> AsyncIterator[NotifyProcesses]:
    processes = NotifyProcesses(NotifySettings(allow=("127.0.0.0/8", "::1"), allow_http=True, seconds=5))
    yield processes
    await processes.aclose()


async def test_process_that_is_killed_while_it_sends_is_followed_by_another(
    world: World, processes: NotifyProcesses
) -> None:
    async with hook_server() as server:
        hook = NotificationSpec("webhook", args={"url": "${{ variables.url }}"})
        spec = replace(told(NotifySpec(on_success=hook)), variables={"url": f"http://localhost:{server.port}/silent"})
        await world.start(spec)
        await world.work(await world.agent("x"))
        sender = notifier(world, processes)
        others = _workers()
        task = asyncio.get_running_loop().create_task(sender.run_once())
        await server.asked.wait()
        [worker] = _workers() - others
        os.kill(worker, signal.SIGKILL)
        await task
        assert await log(world) == [("pending", [(False, "the process that sends notifications failed")])]
        await world.sql("UPDATE pipeline_runs SET variables = $1", {"url": f"http://localhost:{server.port}/200"})
        await pause(world)
        await sender.run_once()
    assert [request.path for request in server.requests] == ["/silent", "/200"]
    assert (await log(world))[0][0] == "sent"


def _workers() -> set[int]:
    return {int(proc.name) for proc in Path("/proc").iterdir() if proc.name.isdecimal() and _is_worker(proc)}


def _is_worker(proc: Path) -> bool:
    try:
        words = (proc / "cmdline").read_bytes().split(b"\0")
        parent = (proc / "stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return False
    return b"arcentra_server.notify" in words and int(parent) == os.getpid()


# Lists and their end


async def test_lists(world: World) -> None:
    agent = await world.agent("x")
    runs = []
    for _ in range(3):
        runs.append(await world.start(told(BOTH)))
        await world.work(agent)
    service = notifier(world, Post())
    rows, total = await service.list_page(pipeline_id=None, run_id=None, page=Page(1, 2))
    assert ([row.run_id for row in rows], total) == ([runs[2].id, runs[1].id], 3)
    rows, total = await service.list_page(pipeline_id=None, run_id=runs[0].id, page=Page())
    [row] = rows
    assert (row.job_name, row.plugin, row.outcome, row.state, row.attempts, total) == (
        "a",
        "webhook",
        "success",
        "pending",
        (),
        1,
    )
    rows, total = await service.list_page(pipeline_id=runs[1].pipeline_id, run_id=None, page=Page())
    assert ([row.run_id for row in rows], total) == ([runs[1].id], 1)


async def test_old_ones_are_forgotten_with_their_logs(world: World) -> None:
    await ended(world)
    service = notifier(world, Post())
    await service.run_once()
    await world.sql("UPDATE notifications SET created_at = created_at - interval '89 days'")
    await service.forget()
    assert len(await log(world)) == 1
    await world.sql("UPDATE notifications SET created_at = created_at - interval '2 days'")
    await service.forget()
    assert await log(world) == []
    assert await world.value("SELECT count(*) FROM notification_attempts") == 0
