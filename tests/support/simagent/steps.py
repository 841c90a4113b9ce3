"""The steps that one agent has, and their processes, which are times in a journal.

The process of a step belongs to nobody: it ends by itself, or is killed by the agent, or by a watchdog beside it that the
agent did not feed. Which of these came first is reckoned from the clock, so that it is right also for an agent that was
stopped meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from tests.support.simagent.journal import Journal, Line, boot_time, read_lines
from tests.support.simagent.plan import Odds, StepPlan, crc_of, plan_of
from tests.support.simagent.ship import Shipper

RUNNING = steprun_pb2.STEP_RUN_STATUS_RUNNING
SUCCESS = steprun_pb2.STEP_RUN_STATUS_SUCCESS
FAILED = steprun_pb2.STEP_RUN_STATUS_FAILED
CANCELLED = steprun_pb2.STEP_RUN_STATUS_CANCELLED
Report = agent_pb2.TaskStatus
Key = tuple[str, int]  # step run and status: what a report is known by, also to who refuses it


@dataclass(slots=True, eq=False)
class SimStep:
    """One lease. `started` is set when its process starts, `over` when it is dead; `killed`: by what."""

    run: agent_pb2.StepRun
    plan: StepPlan
    started: float = 0.0
    over: bool = False
    killed: str = ""
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def kill(self, why: str) -> None:
        self.killed = self.killed or why
        self.wake.set()


@dataclass
class Steps:
    """See the module. `now` is the time as the agent sees it, in Unix seconds; it may be wrong."""

    journal: Journal
    shipper: Shipper
    odds: Odds
    watchdog: float
    now: Callable[[], int]
    fed: float = field(default_factory=boot_time)  # when what the server has answered was sent
    held: dict[str, SimStep] = field(default_factory=dict)  # by step run
    unsettled: dict[Key, Report] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _seen: set[str] = field(default_factory=set)
    _left_over: dict[str, Line] = field(default_factory=dict)
    _ended: list[Line] = field(default_factory=list)  # of these, what is to be sent
    _group: asyncio.TaskGroup | None = None

    # What the server says

    def take(self, group: asyncio.TaskGroup, run: agent_pb2.StepRun) -> None:
        """Take a dispatch; a repeated one is dropped. Its process starts when the RUNNING report is accepted."""
        if run.command_id in self._seen:
            return
        self._seen.add(run.command_id)
        self._group = group
        self.journal.write("taken", step=run.step_run_id, lease=run.command_id, attempt=run.attempt)
        script = run.args["script"] if "script" in run.args.fields else ""
        self.held[run.step_run_id] = SimStep(run, plan_of(self.odds, run.step_run_id, str(script)))
        self._report(run, RUNNING)

    def cancel(self, step_run_id: str) -> None:
        """Kill the process of a step; one that has not started does not start."""
        self.journal.write("told", step=step_run_id, at=boot_time())
        step = self.held.get(step_run_id)
        if step is not None:
            step.kill("cancelled")
        elif line := self._left_over.get(step_run_id):
            # Its end is not wanted any more.
            self.journal.write(
                "verdict",
                step=step_run_id,
                lease=line["lease"],
                status=line.get("outcome", "FAILED"),
                accepted=False,
                reason="told",
                at=boot_time(),
            )
            self._forget(step_run_id)

    def settled(self, key: Key, refusal: str = "") -> None:
        """Note what the server made of a report: the only thing that starts a process, or forgets one."""
        report = self.unsettled.pop(key, None)
        if report is None:
            return
        step_run_id, status = key
        step = self.held.get(step_run_id)
        lease = step.run.command_id if step else self._left_over.get(step_run_id, {}).get("lease", "")
        name = steprun_pb2.StepRunStatus.Name(status).removeprefix("STEP_RUN_STATUS_")  # type: ignore[arg-type]
        self.journal.write(
            "verdict", step=step_run_id, lease=lease, status=name, accepted=not refusal, reason=refusal, at=boot_time()
        )
        if status != RUNNING:
            self._forget(step_run_id)
        elif step is not None and refusal:
            step.kill("refused")
            self._forget(step_run_id)
        elif step is not None:
            self._start(step)

    def feed(self, sent_at: float) -> None:
        """Note that something that was sent then has been answered."""
        self.fed = max(self.fed, sent_at)
        self.journal.write("heard", at=sent_at)

    @property
    def names(self) -> list[str]:
        """The step runs that the agent has, for a heartbeat."""
        return [*self.held, *self._left_over]

    # After a restart

    def recover(self, path: Path, *, tells_losses: bool) -> None:
        """Note what an earlier process of this agent ended and does not know to be settled, for `finish`.

        `tells_losses`: report also what it had taken and not ended, for an agent that does not list what it has.
        """
        open_leases: dict[str, Line] = {}
        for line in read_lines(path):
            match line["kind"]:
                case "taken" | "start" | "end":
                    open_leases[line["lease"]] = {**open_leases.get(line["lease"], {}), **line}
                case "verdict" if line["status"] != "RUNNING" or not line["accepted"]:
                    open_leases.pop(line["lease"], None)
                    self._seen.add(line["lease"])
                case "event":
                    self.shipper.events.append(line["event_id"])
        # What was taken and not started is not known to anybody, and is taken again when it is sent again.
        self._seen.update(lease for lease, line in open_leases.items() if tells_losses or line["kind"] != "taken")
        self.shipper.wake()
        for line in open_leases.values():
            if line["kind"] == "end" and line["why"] != "refused":
                self._left_over[line["step"]] = line
                self._ended.append(line)
            elif tells_losses:
                self._left_over[line["step"]] = line
                self._report_left_over(line, FAILED, 0)

    async def finish(self) -> None:
        """Send the logs of what an earlier process ended, as it may not have done so, each before its outcome."""
        while self._ended:
            line = self._ended.pop(0)
            if log := plan_of(self.odds, line["step"]).log[: line["log_len"]]:
                await self.shipper.send_log(line["step"], log)
            if line["step"] in self._left_over:  # nobody has told us meanwhile that its end is not wanted
                status = {"SUCCESS": SUCCESS, "CANCELLED": CANCELLED}.get(line["outcome"], FAILED)
                self._report_left_over(line, status, line["log_len"])

    def _report_left_over(self, line: Line, status: int, log_size: int) -> None:
        report = Report(step_run_id=line["step"], attempt=line["attempt"], log_size=log_size, timestamp=self.now())
        report.status = status  # type: ignore[assignment]
        if status == FAILED:
            report.exit_code, report.failure_reason = 1, "script" if line["kind"] == "end" else "internal"
        self.unsettled[line["step"], status] = report
        self.changed.set()

    # The life of a process

    def _start(self, step: SimStep) -> None:
        if step.killed or step.started or self._group is None:
            if step.killed and not step.started:
                self._report(step.run, CANCELLED)
            return
        run, plan = step.run, step.plan
        step.started = boot_time()
        self.journal.write(
            "start",
            step=run.step_run_id,
            job=run.job_id,
            index=run.step_index,
            attempt=run.attempt,
            lease=run.command_id,
            at=step.started,
            until=step.started + plan.seconds,
        )
        self._group.create_task(self._live(step))

    async def _live(self, step: SimStep) -> None:
        at, why = await self._end_of_process(step)
        step.over = True
        plan, run = step.plan, step.run
        done = min(1.0, (at - step.started) / plan.seconds) if why != "done" else 1.0
        log = plan.log[: int(len(plan.log) * done)]
        outcome = {"done": FAILED if plan.exit_code else SUCCESS, "cancelled": CANCELLED}.get(why, FAILED)
        name = steprun_pb2.StepRunStatus.Name(outcome).removeprefix("STEP_RUN_STATUS_")
        self.journal.write(
            "end",
            step=run.step_run_id,
            lease=run.command_id,
            at=at,
            outcome=name,
            why=why,
            log_len=len(log),
            log_crc=crc_of(log),
        )
        if why == "refused":
            return
        for _ in range(plan.events):
            self.shipper.add_event()
        if log:
            await self.shipper.send_log(run.step_run_id, log)
        self._report(run, outcome, len(log), "internal" if why == "watchdog" else "script")

    async def _end_of_process(self, step: SimStep) -> tuple[float, str]:
        """Return when and why the process died."""
        planned = step.started + step.plan.seconds
        while True:
            # Read again each time: the agent feeds the watchdog meanwhile. What it fed before it was stopped counts.
            now, starved = boot_time(), self.fed + self.watchdog
            if now >= min(planned, starved):
                return (planned, "done") if planned <= starved else (max(starved, step.started), "watchdog")
            if step.killed:
                return now, step.killed
            try:
                async with asyncio.timeout(min(planned, starved) - now):
                    await step.wake.wait()
            except TimeoutError:
                continue

    def _report(self, run: agent_pb2.StepRun, status: int, log_size: int | None = None, reason: str = "script") -> None:
        report = Report(
            step_run_id=run.step_run_id,
            attempt=run.attempt,
            lease_token=run.lease_token,
            timestamp=self.now(),
            log_size=log_size,
        )
        report.status = status  # type: ignore[assignment]
        if status == FAILED:
            report.exit_code, report.failure_reason = 1, reason
        self.unsettled[run.step_run_id, status] = report
        self.changed.set()

    def _forget(self, step_run_id: str) -> None:
        self.held.pop(step_run_id, None)
        self._left_over.pop(step_run_id, None)
        for key in [key for key in self.unsettled if key[0] == step_run_id]:
            del self.unsettled[key]


def labels_of(text: str) -> Mapping[str, str]:
    """Read `KEY=VALUE,KEY=VALUE`."""
    return dict(pair.split("=", 1) for pair in text.split(",") if pair)
