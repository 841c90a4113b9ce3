"""One step run on this agent: started under a host of its own, or taken over from an agent before, and followed."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog
from google.protobuf import json_format

from arcentra_agent import orphans, outcomes
from arcentra_agent.logs.journal import CursorJournal
from arcentra_agent.logs.log_file import LogFile
from arcentra_agent.logs.shipper import LogShipper, StepLog
from arcentra_agent.outcomes import InvalidStepError, Outcome
from arcentra_agent.secret_values import SecretValues
from arcentra_agent.step_host.commands import Discard, Feed, Stop
from arcentra_agent.step_host.container import kill_noted
from arcentra_agent.step_host.files import StepRecord
from arcentra_agent.step_host.handle import HostHandle
from arcentra_agent.step_host.lease import Lease
from arcentra_agent.step_host.order import Local, Order, StepSpec
from arcentra_agent.step_host.starter import HostStarter
from arcentra_agent.workdir import WorkDir
from arcentra_agent.workspaces import Workspaces
from arcentra_api.agent.v1 import agent_pb2

# Seconds that a host gets to end after its step has been killed.
_LAST_WORDS = 10.0
_HOST_LOST = "the process that the step ran under ended before the step did: it was killed, or its machine stopped"
_log = structlog.get_logger("arcentra_agent")


@dataclass(slots=True)
class Site:
    """What all step runs of this agent share. `kill_grace` is the seconds between TERM and KILL."""

    work_dir: WorkDir
    workspaces: Workspaces
    starter: HostStarter
    shipper: LogShipper
    lease: Lease
    base_env: Mapping[str, str]
    kill_grace: float
    local: Local


class Execution:
    """Has a step run once. It may be cancelled at any time; once its last process has ended, that changes nothing."""

    def __init__(self, site: Site, run: agent_pb2.StepRun, *, is_adopted: bool = False) -> None:
        self._site = site
        self._run = run
        self._files = site.work_dir.files_of(run.step_run_id)
        self._workspace = run.workspace or run.job_id
        self._is_adopted = is_adopted
        self._is_left = False
        self._cancelled: Stop | None = None
        self._host: HostHandle | None = None
        self.settled = asyncio.Event()
        self.log: StepLog | None = None

    def cancel(self, reason: str) -> None:
        """Stop the step because somebody wants it stopped."""
        self._stop(Stop(reason or "the step run was cancelled"))

    def hurry(self) -> None:
        """Have the step killed now, whatever time it was given to end."""
        self._stop(Stop("the agent was stopped", grace=0))

    @property
    def has_outcome(self) -> bool:
        """Tell whether it is written down how the step ended."""
        return self._files.outcome.exists()

    def feed(self) -> None:
        """Let the step run on, as its lease was renewed."""
        if self._host is not None:
            self._host.tell(Feed(self._site.lease.deadline))

    def leave(self) -> None:
        """Leave the step running when this is cancelled; the next process of the agent goes on with it."""
        self._is_left = True

    def _stop(self, stop: Stop) -> None:
        if self._host is not None:
            self._host.tell(stop)
        else:
            self._cancelled = self._cancelled or stop

    async def run(self) -> Outcome:
        """Start the step, or take it over, and return what became of it; nothing but cancellation is raised.

        Cancelled, it stops the step first, unless it was told to leave it. A fault of the agent fails the step.

        Raises:
            Exception: the agent had a fault after it was told to leave the step, which goes on.
        """
        try:
            self._site.workspaces.enter(self._workspace, self._run.job_id)
        except (ValueError, OSError) as error:
            if self._is_adopted:
                self._host = HostHandle(self._files)
                await self._let_go()
            return await self._not_started(error)
        try:
            return await self._seen_through()
        except asyncio.CancelledError:
            await self._let_go()
            raise
        except Exception as error:
            if self._is_left:
                raise
            return await self._broken(error)
        finally:
            self._site.workspaces.leave(self._workspace, self._run.job_id)

    async def _seen_through(self) -> Outcome:
        # Shielded: cancelled half-way, a host would be started that nobody knows of.
        beginning = asyncio.ensure_future(self._begin())
        try:
            not_started = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            await asyncio.wait([beginning])
            raise
        finally:
            self.settled.set()
        return not_started or await self._followed()

    async def _begin(self) -> Outcome | None:
        """Have the step run under a host; return its outcome when that cannot be."""
        if self._is_adopted:
            self._host = HostHandle(self._files)
        elif self._cancelled is not None:
            return outcomes.cancelled(self._cancelled.reason)
        else:
            try:
                self._host = await self._start()
            except (InvalidStepError, OSError) as error:
                return await self._not_started(error)
        if self._cancelled is not None:
            self._host.tell(self._cancelled)
        file, journal = LogFile(self._files.log), CursorJournal(self._files.cursor)
        self.log = self._site.shipper.open(self._run, file, journal, on_given_up=self._discard_output)
        return None

    def _discard_output(self) -> None:
        """Have no more room taken by a log that nobody wants; the step goes on."""
        if self._host is not None:
            self._host.tell(Discard())

    async def _start(self) -> HostHandle:
        workspace = self._site.work_dir.workspaces / self._workspace
        spec = spec_of(self._run)
        await asyncio.to_thread(self._files.create, record_of(self._run))
        order = Order(
            spec,
            str(workspace),
            self._site.base_env,
            self._site.kill_grace,
            self._site.lease.deadline,
            self._site.local,
        )
        return await self._site.starter.start(self._files, order)

    async def _not_started(self, error: Exception) -> Outcome:
        self.settled.set()
        return self.failed_by(error)

    def failed_by(self, error: Exception) -> Outcome:
        """Return the outcome of a step that the agent's host, or a fault of the agent, does not let go on."""
        outcome = outcomes.outcome_of_error(error).without(SecretValues(self._run.secrets.values()))
        if outcome.traceback:
            _log.error("step_run_broke", step_run_id=self._run.step_run_id, exception=outcome.traceback)
        return outcome

    async def _broken(self, error: Exception) -> Outcome:
        """End the step after a fault of the agent, unless it has ended already; return its outcome."""
        known = self._files.read_outcome()
        outcome = self.failed_by(error)
        # One may have been started all the same.
        self._host = self._host or HostHandle(self._files)
        try:
            await self._let_go()
        except (OSError, RuntimeError) as again:
            _log.error("step_run_not_ended", step_run_id=self._run.step_run_id, error=str(again))
        if self.log is None:
            return known or outcome
        ended = known or replace(outcome, log_size=max(self.log.file.size, self.log.cursor.cut_bytes))
        self._site.shipper.end(self.log, ended.log_size)
        return ended

    async def _followed(self) -> Outcome:
        """Wait for the end of the host, and see that its step ends with it."""
        if self._host is None or self.log is None:
            raise RuntimeError("a step run is followed that was not begun")
        await self._host.ended()
        outcome = await asyncio.to_thread(self._files.read_outcome)
        if outcome is None:
            killed = await asyncio.to_thread(self._kill_orphans)
            _log.error("step_host_lost", step_run_id=self._run.step_run_id, killed=killed)
            # The file is shorter than what was sent when its host has thrown away what the server did not want.
            size = max(self.log.file.size, self.log.cursor.cut_bytes)
            outcome = replace(outcomes.lost(self._how_lost()), log_size=size)
        if outcome.traceback:
            _log.error("step_run_broke", step_run_id=self._run.step_run_id, exception=outcome.traceback)
        self._site.shipper.end(self.log, outcome.log_size)
        return outcome

    async def _let_go(self) -> None:
        """Let go of the host: leave it to the next agent, or see that it ends, with its step."""
        if self._host is None:
            return
        if self._is_left:
            self._host.release()
            return
        self._host.tell(Stop("the step run is not this agent's any more", self._site.kill_grace))
        try:
            async with asyncio.timeout(self._site.kill_grace + _LAST_WORDS):
                await self._host.ended()
        except TimeoutError:
            self._host.kill()
        await asyncio.to_thread(self._kill_orphans)

    def _how_lost(self) -> str:
        """Tell what is known of the end of a host that left no outcome."""
        fault = self._files.read_fault()
        if not fault:
            return _HOST_LOST
        _log.error("step_host_broke", step_run_id=self._run.step_run_id, exception=fault)
        return f"the process that the step ran under failed: {fault.strip().splitlines()[-1]}"

    def _kill_orphans(self) -> int:
        kill_noted(self._files.container)
        killed = orphans.kill_abandoned(self._site.work_dir.workspaces, self._run.step_run_id)
        # Once more: what was killed just now may have made the container after the first look.
        kill_noted(self._files.container)
        return killed

    def forget(self) -> None:
        """Remove what is left on disk: everybody who needs to has read it."""
        if self.log is not None:
            self._site.shipper.drop(self.log)
        try:
            self._files.remove()
        except OSError as error:
            _log.warning("step_files_not_removed", step_run_id=self._run.step_run_id, error=str(error))
        try:
            self._site.work_dir.trash.throw(self._files.scratch)
        except OSError as error:
            _log.warning("step_files_not_removed", step_run_id=self._run.step_run_id, error=str(error))


def record_of(run: agent_pb2.StepRun) -> StepRecord:
    """Return what of a step run is written down."""
    return StepRecord(
        step_run_id=run.step_run_id,
        attempt=run.attempt,
        lease_token=run.lease_token,
        command_id=run.command_id,
        pipeline_id=run.pipeline_id,
        job_id=run.job_id,
        workspace=run.workspace or run.job_id,
        uses=run.uses,
    )


def run_of(record: StepRecord) -> agent_pb2.StepRun:
    """Return what is known of a step run that was written down."""
    return agent_pb2.StepRun(
        step_run_id=record.step_run_id,
        attempt=record.attempt,
        lease_token=record.lease_token,
        command_id=record.command_id,
        pipeline_id=record.pipeline_id,
        job_id=record.job_id,
        workspace=record.workspace,
        uses=record.uses,
    )


def spec_of(run: agent_pb2.StepRun) -> StepSpec:
    """Return what a host has to know of a step run.

    Raises:
        InvalidStepError: when its arguments are no JSON.
    """
    return StepSpec(
        step_run_id=run.step_run_id,
        pipeline_id=run.pipeline_id,
        pipeline_run_id=run.pipeline_run_id,
        job_name=run.job_name,
        step_name=run.step_name,
        attempt=run.attempt,
        uses=run.uses,
        action=run.action,
        image=run.image,
        timeout=run.timeout,
        artifacts=[artifact.name for artifact in run.artifacts],
        args=_arguments(run),
        env=dict(run.env),
        secrets=dict(run.secrets),
    )


def _arguments(run: agent_pb2.StepRun) -> dict[str, object]:
    try:
        return dict(json_format.MessageToDict(run.args))
    except (json_format.Error, ValueError) as error:
        raise InvalidStepError(f"args: {error}") from error
