"""The step runs this agent has: taken, reported as running, run, their log delivered, reported as ended, forgotten.

Nothing is started before the server has accepted that it runs, and nothing is forgotten before the server has
committed how it ended. What was started goes on when the agent ends, and the next process of the agent takes it over.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog

from arcentra_agent.execution import Execution, Site, run_of
from arcentra_agent.mailbox import Mailbox
from arcentra_agent.outcomes import Outcome
from arcentra_agent.step_host.files import StepRecord
from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.steprun.v1 import steprun_pb2

_STEP_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_REMEMBERED_COMMANDS = 4096
_LONGEST_MESSAGE = 2000
# Seconds that an agent which is about to leave waits for the server to say whether a step may start.
_LAST_DECISIONS = 5.0
_log = structlog.get_logger("arcentra_agent")

RUNNING: Final = steprun_pb2.STEP_RUN_STATUS_RUNNING


class Step:
    """One step run on this agent, and what the server said about it."""

    def __init__(self, run: agent_pb2.StepRun, execution: Execution) -> None:
        # `is_left`: what is kept of it on disk stays, for the next process of the agent.
        self.run = run
        self.execution = execution
        self.task: asyncio.Task[None] | None = None
        self.has_slot = False
        self.may_start = False
        self.has_ended = False
        self.is_left = False
        self.decided = asyncio.Event()
        self.closed = asyncio.Event()

    def report(self, status: steprun_pb2.StepRunStatus.ValueType) -> agent_pb2.TaskStatus:
        """Return a report under the lease of this step."""
        return agent_pb2.TaskStatus(
            step_run_id=self.run.step_run_id,
            status=status,
            lease_token=self.run.lease_token,
            attempt=self.run.attempt,
        )

    def final_report(self, outcome: Outcome) -> agent_pb2.TaskStatus:
        """Return the report of how it ended."""
        report = self.report(steprun_pb2.StepRunStatus.Value(f"STEP_RUN_STATUS_{outcome.status}"))
        report.exit_code = outcome.exit_code
        # A file name in a message may be no text at all, which a report cannot carry.
        report.error_message = outcome.message.encode("utf-8", "replace").decode()[:_LONGEST_MESSAGE]
        report.failure_reason = outcome.reason
        report.metrics.update(outcome.metrics)
        report.outputs.update(outcome.outputs)
        report.log_size = outcome.log_size
        return report


class StepBoard:
    """All step runs of this agent. Methods that take the server's messages never wait."""

    def __init__(self, site: Site, mailbox: Mailbox, tasks: asyncio.TaskGroup, capacity: int) -> None:
        self._site = site
        self._mailbox = mailbox
        self._tasks = tasks
        self._slots = asyncio.Semaphore(capacity)
        # A server keeps to the capacity; leases that end while their process is being killed may exceed it for a while.
        self._most = 4 * capacity + 64
        self._steps: dict[str, Step] = {}
        self._commands: OrderedDict[str, None] = OrderedDict()
        self._empty = asyncio.Event()
        self._empty.set()
        # Draining, it takes the next steps of the jobs that it has begun; closed, it takes nothing.
        self.is_draining = False
        self._is_closed = False
        self._in_a_hurry = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        """Tell whether nothing is taken any more."""
        return self._is_closed

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def step_run_ids(self) -> list[str]:
        """Every step run that is not finished for the server, so that it does not take any of them for lost."""
        return list(self._steps)

    async def empty(self) -> None:
        """Wait until there is no step run left."""
        await self._empty.wait()

    # What an agent before this one left

    def adopt(self, record: StepRecord) -> None:
        """Go on with a step run that was started already, whether it has ended since or not."""
        step = Step(run_of(record), Execution(self._site, run_of(record), is_adopted=True))
        step.may_start = True
        step.decided.set()
        _log.info("step_run_adopted", step_run_id=record.step_run_id)
        self._add(step, self._live_on)

    # What the server says

    def dispatch(self, run: agent_pb2.StepRun, command_id: str) -> None:
        """Take a step run, unless it was taken before or cannot be."""
        if command_id and command_id in self._commands:
            return
        if known := self._steps.get(run.step_run_id):
            self._renew(known, run, command_id)
            return
        refusal = self._refusal(run)
        self._remember(command_id)
        if refusal:
            self._answer(command_id, refusal)
            return
        run.command_id = command_id
        step = Step(run, Execution(self._site, run))
        self._add(step, self._live)

    def committed(self, report: agent_pb2.TaskStatus) -> None:
        """Take note that the server committed a report."""
        step = self._holder(report)
        if step is None:
            return
        if report.status == RUNNING:
            step.may_start = True
            step.decided.set()
        else:
            step.closed.set()

    def refused(self, report: agent_pb2.TaskStatus, reason: str) -> None:
        """Stop and forget a step run that the server does not leave to this agent."""
        step = self._holder(report)
        if step is None:
            return
        _log.warning("report_refused", step_run_id=report.step_run_id, status=report.status, reason=reason)
        self._abandon(step)

    def cancel(self, step_run_id: str, reason: str) -> None:
        """Stop a step run and report it as cancelled; one that is not here needs nothing."""
        if step := self._steps.get(step_run_id):
            _log.info("step_run_cancelled", step_run_id=step_run_id)
            step.execution.cancel(reason)

    def lease_renewed(self, sent_at: float) -> None:
        """Let all step runs go on: the server answered a heartbeat that was sent at this boot time (`boottime`)."""
        self._site.lease.renew(sent_at)
        for step in self._steps.values():
            step.execution.feed()

    def lease_lasts(self, seconds: float) -> None:
        """Take note of the length of a lease, from the next renewal on."""
        self._site.lease.duration = seconds

    # What the agent decides

    async def leave_all(self) -> None:
        """Leave what runs to the next process of the agent; nothing is stopped and nothing more is started."""
        self.close()
        # A start that was reported may be accepted any moment; nobody else would know that it never happened.
        reported = [step for step in self._steps.values() if step.has_slot]
        waits = [asyncio.ensure_future(self._in_a_hurry.wait()), asyncio.ensure_future(_all_decided(reported))]
        try:
            await asyncio.wait(waits, timeout=_LAST_DECISIONS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        for step in list(self._steps.values()):
            step.is_left = True
            step.execution.leave()
            if step.may_start:
                await step.execution.settled.wait()
            self._abandon(step)

    def hurry_leaving(self) -> None:
        """Leave without waiting for what the server decides."""
        self._in_a_hurry.set()

    def leave_now(self) -> None:
        """Have everything left to the next process that is cancelled from now on: this one has a fault."""
        self.close()
        for step in self._steps.values():
            step.is_left = True
            step.execution.leave()

    def close(self) -> None:
        """Take nothing more, also not of jobs that are here."""
        self.is_draining = self._is_closed = True

    def cancel_all(self, reason: str) -> None:
        """Stop all, each to be reported as cancelled, and take nothing more."""
        self.close()
        for step_run_id in self.step_run_ids:
            self.cancel(step_run_id, reason)

    def abandon_all(self) -> None:
        """Kill everything now and report nothing more; what had ended is left to be reported by the next process."""
        self.close()
        self._site.kill_grace = 0
        for step in list(self._steps.values()):
            # Its end may stand on the disk without having been read yet.
            step.is_left = step.is_left or step.has_ended or step.execution.has_outcome
            step.execution.hurry()
            self._abandon(step)

    # The life of a step run

    async def _whole(self, step: Step, live: Callable[[Step], Awaitable[None]]) -> None:
        """Let no fault of the agent in one step run end the others, or go unreported."""
        try:
            await live(step)
        except Exception as error:  # noqa: BLE001 - told by its outcome
            if step.is_left:
                _log.error("step_run_left_in_disorder", step_run_id=step.run.step_run_id, error=repr(error))
                return
            self._mailbox.put(step.final_report(step.execution.failed_by(error)))
            await step.closed.wait()

    async def _live(self, step: Step) -> None:
        async with self._slots:
            step.has_slot = True
            self._answer(step.run.command_id, "")
            self._mailbox.put(step.report(RUNNING))
            await step.decided.wait()
            _log.info("step_run_started", step_run_id=step.run.step_run_id, uses=step.run.uses)
            outcome = await step.execution.run()
        await self._deliver(step, outcome)

    async def _live_on(self, step: Step) -> None:
        """Live as a step that runs already: it needs no slot, but what is to start after it does."""
        step.has_slot = not self._slots.locked()
        if step.has_slot:
            await self._slots.acquire()
        try:
            outcome = await step.execution.run()
        finally:
            if step.has_slot:
                self._slots.release()
        await self._deliver(step, outcome)

    async def _deliver(self, step: Step, outcome: Outcome) -> None:
        """See that the server has all of the log, and then the outcome."""
        step.has_ended = True
        if step.execution.log is not None:
            await step.execution.log.shipped.wait()
        self._mailbox.put(step.final_report(outcome))
        await step.closed.wait()
        _log.info("step_run_ended", step_run_id=step.run.step_run_id, status=outcome.status, reason=outcome.reason)

    def _add(self, step: Step, live: Callable[[Step], Awaitable[None]]) -> None:
        self._steps[step.run.step_run_id] = step
        self._empty.clear()
        step.task = self._tasks.create_task(self._whole(step, live), name=f"step-{step.run.step_run_id}")
        # Not at the end of its life: a task that is cancelled before its first turn never gets there.
        step.task.add_done_callback(lambda _: self._forget(step))

    def _forget(self, step: Step) -> None:
        try:
            if not step.is_left:
                step.execution.forget()
        except Exception as error:  # noqa: BLE001 - the rest of this is owed to the others
            _log.error("step_run_not_forgotten", step_run_id=step.run.step_run_id, error=repr(error))
        # Nobody is to wait for what does not come any more.
        step.decided.set()
        step.execution.settled.set()
        self._mailbox.outbox.drop(step.run.step_run_id)
        self._steps.pop(step.run.step_run_id, None)
        if not self._steps:
            self._empty.set()

    def _abandon(self, step: Step) -> None:
        # Once: what it does when it is cancelled is to end its processes.
        if step.task is not None and not step.task.cancelling():
            step.task.cancel()

    def _holder(self, report: agent_pb2.TaskStatus) -> Step | None:
        """Return the step a report was made for; a report under an older lease is nobody's."""
        step = self._steps.get(report.step_run_id)
        return step if step is not None and step.run.lease_token == report.lease_token else None

    # Dispatches

    def _refusal(self, run: agent_pb2.StepRun) -> str:
        """Say why a step run cannot be taken, or nothing."""
        if self._is_closed or (self.is_draining and run.job_id not in self._site.workspaces.job_ids):
            return "the agent is stopping"
        if len(self._steps) >= self._most:
            return "the agent is full"
        if not _STEP_RUN_ID.fullmatch(run.step_run_id):
            return "the step run has an id that cannot be a file name"
        return ""

    def _renew(self, step: Step, run: agent_pb2.StepRun, command_id: str) -> None:
        """Take a new lease of a step run that is already here: it replaces one that was never accepted."""
        if run.lease_token == step.run.lease_token:
            return
        if step.may_start:
            self._remember(command_id)
            self._answer(command_id, "the step run is already running here under another lease")
            return
        self._remember(command_id)
        step.run.lease_token, step.run.attempt = run.lease_token, run.attempt
        step.run.command_id = command_id
        if step.has_slot:
            self._answer(command_id, "")
            self._mailbox.put(step.report(RUNNING))

    def _remember(self, command_id: str) -> None:
        self._commands[command_id] = None
        if len(self._commands) > _REMEMBERED_COMMANDS:
            self._commands.popitem(last=False)

    def _answer(self, command_id: str, refusal: str) -> None:
        status = agent_pb2.ACK_STATUS_FAILED if refusal else agent_pb2.ACK_STATUS_OK
        if refusal:
            _log.warning("dispatch_refused", command_id=command_id, reason=refusal)
        self._mailbox.put(agent_pb2.TaskAck(command_id=command_id, status=status, message=refusal))


async def _all_decided(steps: Iterable[Step]) -> None:
    for step in steps:
        await step.decided.wait()
