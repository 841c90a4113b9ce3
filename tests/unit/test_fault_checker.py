"""The checker of promises finds each of them broken, and nothing in what is in order."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.support.fault_checker import PROMISES, under_way, violations
from tests.support.fault_evidence import Evidence, processes_of
from tests.support.fault_history import Call, History
from tests.support.simagent.journal import Line

START = datetime(2026, 1, 1, tzinfo=UTC)
RUN, JOB, OTHER, AGENT, GATE = (UUID(int=number) for number in range(1, 6))
FIRST, SECOND = UUID(int=11), UUID(int=12)
LEASES = {FIRST: UUID(int=21), SECOND: UUID(int=22)}
LOG = b"what the step said\n"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class World:
    """One run with two steps that ended well, by a gate and a key; a test breaks one thing of it."""

    def __init__(self) -> None:
        step = {
            "run_id": RUN,
            "job_run_id": JOB,
            "attempt": 1,
            "superseded": False,
            "status": "SUCCESS",
            "agent_id": AGENT,
            "cancel_cause": None,
            "cancel_requested_at": None,
            "log_size": len(LOG),
            "created_at": at(0),
            "own_selector": False,
            "failure_reason": None,
        }
        self.steps: list[dict[str, Any]] = [
            {**step, "id": FIRST, "name": "a", "step_index": 0, "started_at": at(11), "finished_at": at(12)},
            {**step, "id": SECOND, "name": "b", "step_index": 1, "started_at": at(14), "finished_at": at(15)},
        ]
        self.leases: list[dict[str, Any]] = [
            {"id": LEASES[FIRST], "step_run_id": FIRST, "created_at": at(10), "ended_at": at(12)},
            {"id": LEASES[SECOND], "step_run_id": SECOND, "created_at": at(13), "ended_at": at(15)},
        ]
        for lease in self.leases:
            lease["agent_id"] = AGENT
        self.run: dict[str, Any] = {
            "id": RUN, "namespace": "default", "status": "SUCCESS", "finished_at": at(15), "paused": False
        }  # fmt: skip
        job = {"run_id": RUN, "stage_index": 0, "waits_for": "", "concurrency": "key", "concurrency_limit": 1}
        self.jobs: list[dict[str, Any]] = [
            {**job, "id": JOB, "finished_at": at(15)},
            {**job, "id": OTHER, "finished_at": at(16)},
        ]
        self.queue: list[dict[str, Any]] = []
        self.claims: list[dict[str, Any]] = []
        self.approvals: list[dict[str, Any]] = [
            {"id": GATE, "run_id": RUN, "stage_index": 0, "state": "APPROVED", "needed": 1, "decided_at": at(5)}
        ]
        self.votes: list[dict[str, Any]] = [{"approval_id": GATE, "approved": True}]
        self.agent: dict[str, Any] = {
            "id": AGENT, "name": "agent", "capacity": 1, "deleted_at": None, "status": "IDLE", "claimed_labels": {},
            "server_labels": {},
        }  # fmt: skip
        self.agent_events: list[dict[str, Any]] = [{"agent_id": AGENT, "seq": 1, "event_id": "one"}]
        self.logs: list[dict[str, Any]] = [{"step_run_id": FIRST, "size": len(LOG), "lost_bytes": 0}]
        self.chunks: list[dict[str, Any]] = [
            {"step_run_id": FIRST, "start_offset": 0, "raw_size": len(LOG), "compression": 1, "data": LOG}
        ]
        self.events: list[dict[str, Any]] = []
        for step_id in (FIRST, SECOND):
            for before, status in ((None, "QUEUED"), ("QUEUED", "RUNNING"), ("RUNNING", "SUCCESS")):
                self.tell("step", step_id, before, status)
        for job_id in (JOB, OTHER):
            self.tell("job", job_id, "PENDING", "RUNNING")
            self.tell("job", job_id, "RUNNING", "SUCCESS")
        self.journal: list[Line] = [{"kind": "boot", "agent": str(AGENT), "boot": "1", "at": 0.0}]
        self.journal.append({"kind": "event", "seq": 1, "event_id": "one"})
        self.work(FIRST, 0, 101.0, 102.0, LOG)
        self.work(SECOND, 1, 104.0, 105.0, b"")
        self.calls = [Call("trigger", str(RUN), 0.0, 1.0), Call("approve", str(GATE), 4.0, 5.0)]
        self.inconsistent: list[str] = []
        self.connections = 10
        self.keeps_leases = False

    def tell(self, resource: str, identity: UUID, before: str | None, status: str) -> None:
        step, job = (identity, None) if resource == "step" else (None, identity)
        event = {"resource": resource, "step_run_id": step, "job_run_id": job, "run_id": None, "status": status}
        self.events.append({**event, "id": len(self.events), "previous_status": before, "message": ""})

    def work(self, step_id: UUID, index: int, begun: float, ended: float, log: bytes) -> None:
        own = {"step": str(step_id), "lease": str(LEASES[step_id])}
        start = {"job": str(JOB), "index": index, "attempt": 1, "at": begun, "until": ended}
        self.journal.append({"kind": "start", **own, **start})
        wrote = {"log_len": len(log), "log_crc": zlib.crc32(log)}
        self.journal.append({"kind": "end", **own, "at": ended, "outcome": "SUCCESS", "why": "done", **wrote})
        self.journal.append(
            {"kind": "verdict", **own, "status": "SUCCESS", "accepted": True, "reason": "", "at": ended}
        )

    def evidence(self) -> Evidence:
        rows = {
            "pipeline_runs": [self.run],
            "run_stages": [{"run_id": RUN, "stage_index": 0, "gate": "APPROVED"}],
            "job_runs": self.jobs,
            "step_runs": self.steps,
            "step_queue": self.queue,
            "leases": self.leases,
            "concurrency_claims": self.claims,
            "approvals": self.approvals,
            "approval_votes": self.votes,
            "agents": [self.agent],
            "agent_events": self.agent_events,
            "step_logs": self.logs,
            "log_chunks": self.chunks,
            "selectors": [{"id": 1, "document": []}],
        }
        journals = {"agent": self.journal}
        history = History(START.timestamp(), self.calls, self.keeps_leases)
        return Evidence(
            rows, self.events, self.inconsistent, self.connections, at(60).timestamp(), at(-90).timestamp(),
            journals, processes_of(journals), history,
        )  # fmt: skip


def lose_the_run(world: World) -> None:
    world.calls.append(Call("trigger", str(UUID(int=99)), 0.0, 1.0))


def let_a_run_stand_still(world: World) -> None:
    world.run.update(status="RUNNING", finished_at=None)


def wait_for_a_free_key(world: World) -> None:
    let_a_run_stand_still(world)
    world.jobs[0].update(waits_for="concurrency", finished_at=None)


def take_an_agent_for_lost(world: World) -> None:
    world.keeps_leases = True
    world.steps[1]["failure_reason"] = "agent_lost"


def end_twice(world: World) -> None:
    world.tell("step", FIRST, "SUCCESS", "FAILED")
    world.tell("step", FIRST, "FAILED", "SUCCESS")


def end_otherwise_than_accepted(world: World) -> None:
    world.steps[0]["status"] = world.events[2]["status"] = "FAILED"


def lease_twice(world: World) -> None:
    world.agent["capacity"] = 2
    world.leases.append({**world.leases[0], "id": UUID(int=23), "created_at": at(11), "ended_at": at(12)})


def start_without_a_word(world: World) -> None:
    world.events = [event for event in world.events if event["status"] != "RUNNING" or event["step_run_id"] != FIRST]


def start_twice(world: World) -> None:
    world.work(FIRST, 0, 101.5, 102.5, LOG)


def run_two_steps_at_once(world: World) -> None:
    world.journal[-3].update(at=101.5, until=105.0)


def lose_an_event(world: World) -> None:
    world.agent_events.clear()


def make_a_hole(world: World) -> None:
    world.agent_events.append({"agent_id": AGENT, "seq": 3, "event_id": "three"})


def change_a_log(world: World) -> None:
    world.chunks[0]["data"] = LOG.upper()


def lose_a_log(world: World) -> None:
    world.logs[0]["lost_bytes"] = 3


def share_a_key(world: World) -> None:
    world.events[-4:] = sorted(world.events[-4:], key=lambda event: event["status"])


def lease_before_the_gate(world: World) -> None:
    world.approvals[0]["decided_at"] = at(11)


def lose_a_vote(world: World) -> None:
    world.votes.clear()


def skip_a_state(world: World) -> None:
    world.events[1]["status"] = world.events[2]["previous_status"] = "PENDING"


def lease_after_a_cancel(world: World) -> None:
    world.calls.append(Call("cancel_step", str(SECOND), 0.0, at(12.5).timestamp()))


def tell_nobody_of_a_cancel(world: World) -> None:
    world.steps[1].update(cancel_cause="request", status="CANCELLED")
    world.events[5]["status"] = "CANCELLED"
    world.calls.append(Call("cancel_step", str(SECOND), 0.0, at(14.1).timestamp()))
    world.journal += [{"kind": "heard", "at": moment} for moment in (104.2, 104.4, 104.6)]


def go_out_of_turn(world: World) -> None:
    world.steps[0]["finished_at"] = at(13.5)


def leave_the_workspace(world: World) -> None:
    world.steps[1]["agent_id"] = UUID(int=6)


def count_wrongly(world: World) -> None:
    world.inconsistent.append("job: completed_steps is 1, counted 2")


def need_a_repair(world: World) -> None:
    world.events[-1]["message"] = "repaired: its steps had ended, and it had not"


def believe_an_agent(world: World) -> None:
    world.steps[1]["started_at"] = at(14 - 3_600)


def leave_a_lease(world: World) -> None:
    world.leases[1]["ended_at"] = None


def leave_a_place_in_the_queue(world: World) -> None:
    world.queue.append({"step_run_id": SECOND, "run_id": RUN, "agent_id": None, "selector_id": 1})


def connect_without_end(world: World) -> None:
    world.connections = 100


def give_more_than_there_is_room_for(world: World) -> None:
    world.leases.append({**world.leases[0], "id": UUID(int=23), "step_run_id": UUID(int=13)})


BROKEN: list[tuple[str, Callable[[World], None]]] = [
    ("P1", lose_the_run),
    ("P1", let_a_run_stand_still),
    ("P1", wait_for_a_free_key),
    ("P1", take_an_agent_for_lost),
    ("P2", end_twice),
    ("P2", end_otherwise_than_accepted),
    ("P3", lease_twice),
    ("P4", start_without_a_word),
    ("P4", start_twice),
    ("P4", run_two_steps_at_once),
    ("P5", lose_an_event),
    ("P5", make_a_hole),
    ("P6", change_a_log),
    ("P6", lose_a_log),
    ("P7", share_a_key),
    ("P8", lease_before_the_gate),
    ("P8", lose_a_vote),
    ("P9", skip_a_state),
    ("P10", lease_after_a_cancel),
    ("P10", tell_nobody_of_a_cancel),
    ("P11", go_out_of_turn),
    ("P11", leave_the_workspace),
    ("P12", count_wrongly),
    ("P12", need_a_repair),
    ("P13", believe_an_agent),
    ("P14", leave_a_lease),
    ("P14", leave_a_place_in_the_queue),
    ("P14", connect_without_end),
    ("P14", give_more_than_there_is_room_for),
]


def wait_for_a_key_that_another_has(world: World) -> None:
    wait_for_a_free_key(world)
    world.jobs[1].update(finished_at=None)
    world.claims.append({"namespace": "default", "key": "key", "job_run_id": OTHER, "place": 0})


def end_before_word_of_a_cancel_came(world: World) -> None:
    tell_nobody_of_a_cancel(world)
    del world.journal[-1]


def test_nothing_is_found_in_what_is_in_order() -> None:
    assert violations(World().evidence()) == []


@pytest.mark.parametrize("change", [wait_for_a_key_that_another_has, end_before_word_of_a_cancel_came])
def test_nothing_is_found_where_there_is_a_reason(change: Callable[[World], None]) -> None:
    world = World()
    change(world)
    assert violations(world.evidence()) == []


@pytest.mark.parametrize(("promise", "spoil"), BROKEN, ids=[spoil.__name__ for _, spoil in BROKEN])
def test_a_broken_promise_is_found(promise: str, spoil: Callable[[World], None]) -> None:
    world = World()
    spoil(world)
    assert promise in {found.partition(":")[0] for found in violations(world.evidence())}


@pytest.mark.parametrize(("told", "waits"), [(0, True), (1, False)])
def test_an_event_is_waited_for_until_its_agent_takes_it_for_stored(told: int, *, waits: bool) -> None:
    world = World()
    lose_an_event(world)
    seen = world.evidence()
    seen.told["agent"] = told
    assert bool(under_way(seen)) is waits


def test_every_promise_is_seen_broken() -> None:
    assert {promise for promise, _ in BROKEN} == PROMISES.keys()
