"""One step run, from the moment it may start to its outcome."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from google.protobuf import json_format

from arcentra_agent import orphans
from arcentra_agent.durations import parse_duration
from arcentra_agent.environment import BadEnvironmentError, step_environment
from arcentra_agent.logs.shipper import LogShipper, StepLog
from arcentra_agent.logs.spool import Spool, is_disk_full
from arcentra_agent.plugins.arguments import ArgumentError
from arcentra_agent.plugins.base import Plugin, StepContext, StepResult
from arcentra_agent.process import CannotStartError, Launcher
from arcentra_agent.workdir import WorkDir
from arcentra_agent.workspaces import WorkspaceError, Workspaces, remove_tree
from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.steprun.v1 import steprun_pb2

_log = structlog.get_logger("arcentra_agent")
# What `timeout` and an interrupted shell answer.
_TIMEOUT_CODE, _CANCELLED_CODE = 124, 130


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step run ended, as it is reported."""

    status: steprun_pb2.StepRunStatus.ValueType
    exit_code: int = 0
    message: str = ""
    reason: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Site:
    """What all step runs of this agent share."""

    work_dir: WorkDir
    workspaces: Workspaces
    launcher: Launcher
    shipper: LogShipper
    base_env: Mapping[str, str]
    plugins: Mapping[str, Plugin]


class InvalidStepError(ValueError):
    """The step run asks for something that makes no sense; the text is for the author of the pipeline."""


class PluginMissingError(Exception):
    """This agent cannot do what the step run `uses`."""


class Execution:
    """Runs a step once. It may be cancelled at any time; once its last process has ended, that changes nothing."""

    def __init__(self, site: Site, run: agent_pb2.StepRun) -> None:
        self._site = site
        self._run = run
        self._stopped: Outcome | None = None
        self._deadline: asyncio.Timeout | None = None
        self._is_over = False
        self.log: StepLog | None = None

    def cancel(self, reason: str) -> None:
        """Stop the step because somebody wants it stopped."""
        if self._is_over:
            return
        message = reason or "the step run was cancelled"
        self._stop(Outcome(steprun_pb2.STEP_RUN_STATUS_CANCELLED, _CANCELLED_CODE, message, "cancelled"))

    def _stop(self, outcome: Outcome) -> None:
        if self._stopped is not None:
            return
        self._stopped = outcome
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> Outcome:
        """Do what the step says and return what became of it; nothing but cancellation is raised."""
        started = time.monotonic()
        try:
            outcome = await self._attempt()
        except (InvalidStepError, ArgumentError, WorkspaceError, BadEnvironmentError) as error:
            outcome = _failed(2, str(error), "validation")
        except PluginMissingError as error:
            outcome = _failed(127, str(error), "plugin_missing")
        except CannotStartError as error:
            outcome = _failed(error.exit_code, str(error), "script")
        except OSError as error:
            outcome = _failed(1, f"the agent's host: {error}", "disk_full" if is_disk_full(error) else "internal")
        except Exception as error:  # noqa: BLE001 - a plugin must not take the other step runs down
            _log.exception("step_run_broke", step_run_id=self._run.step_run_id)
            outcome = _failed(1, f"the agent failed with {type(error).__name__}", "internal")
        outcome = self._stopped or outcome
        duration = {"duration_ms": str(round((time.monotonic() - started) * 1000))}
        return Outcome(
            outcome.status, outcome.exit_code, outcome.message, outcome.reason, {**outcome.metrics, **duration}
        )

    async def _attempt(self) -> Outcome:
        run = self._run
        plugin, limit = self._plugin(), _time_limit(run)
        workspace = self._site.workspaces.enter(run.workspace, run.job_id)
        scratch = self._site.work_dir.scratch / run.step_run_id
        try:
            env = step_environment(self._site.base_env, run, workspace)
            scratch.mkdir(exist_ok=True)
            spool = Spool(self._site.work_dir.logs / f"{run.step_run_id}.log", self._on_full)
            self.log = self._site.shipper.open(run, spool)
            try:
                context = StepContext(workspace, scratch, env, spool.writer, self._site.launcher)
                return await self._within(limit, plugin, context)
            finally:
                await self._close(self.log)
        finally:
            remove_tree(scratch)
            self._site.workspaces.leave(run.workspace, run.job_id)

    async def _close(self, log: StepLog) -> None:
        """Let nothing of the step go on, and the log end with the last byte that anything of it wrote."""
        try:
            await asyncio.to_thread(orphans.kill_orphans_of, log.step_run_id)
        finally:
            await log.spool.close()
            self._site.shipper.end(log)

    async def _within(self, limit: float | None, plugin: Plugin, context: StepContext) -> Outcome:
        args = _arguments(self._run)
        try:
            async with asyncio.timeout(limit) as self._deadline:
                if self._stopped is not None:
                    return self._stopped
                return _outcome_of(await plugin.run(self._run.action, args, context))
        except TimeoutError:
            if self._deadline is None or not self._deadline.expired():
                raise
            message = f"the step ran longer than its time limit of {self._run.timeout}"
            return Outcome(steprun_pb2.STEP_RUN_STATUS_TIMEOUT, _TIMEOUT_CODE, message, "timeout")
        finally:
            self._is_over, self._deadline = True, None

    def _plugin(self) -> Plugin:
        if self._run.image:
            raise PluginMissingError("this agent does not run steps in container images")
        try:
            return self._site.plugins[self._run.uses]
        except KeyError as error:
            known = ", ".join(sorted(self._site.plugins))
            raise PluginMissingError(f"this agent has no plugin {self._run.uses!r}; it has {known}") from error

    def _on_full(self, error: OSError) -> None:
        self._stop(_failed(1, f"the log cannot be written: {error.strerror}", "disk_full"))

    def forget(self) -> None:
        """Remove what is left on disk: everybody who needs to has read it."""
        if self.log is not None:
            self._site.shipper.drop(self.log)
            _unlink(self.log.spool.path)


def _time_limit(run: agent_pb2.StepRun) -> float | None:
    if not run.timeout:
        return None
    try:
        return parse_duration(run.timeout)
    except ValueError as error:
        raise InvalidStepError(f"timeout: {error}") from error


def _arguments(run: agent_pb2.StepRun) -> dict[str, object]:
    try:
        return dict(json_format.MessageToDict(run.args))
    except (json_format.Error, ValueError) as error:
        raise InvalidStepError(f"args: {error}") from error


def _outcome_of(result: StepResult) -> Outcome:
    if result.exit_code == 0:
        return Outcome(steprun_pb2.STEP_RUN_STATUS_SUCCESS, metrics=result.metrics)
    return Outcome(
        steprun_pb2.STEP_RUN_STATUS_FAILED, result.exit_code, result.message, "script", metrics=result.metrics
    )


def _failed(exit_code: int, message: str, reason: str) -> Outcome:
    return Outcome(steprun_pb2.STEP_RUN_STATUS_FAILED, exit_code, message, reason)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("log_not_removed", path=str(path), error=str(error))
