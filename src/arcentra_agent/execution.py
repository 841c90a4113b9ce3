"""One step run, from the moment it may start to its outcome."""

import asyncio
import time
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from google.protobuf import json_format

from arcentra_agent import orphans, outcomes
from arcentra_agent.durations import parse_duration
from arcentra_agent.environment import step_environment
from arcentra_agent.logs.shipper import LogShipper, StepLog
from arcentra_agent.logs.spool import Spool
from arcentra_agent.outcomes import InvalidStepError, Outcome
from arcentra_agent.outputs import OutputError, joined, read_outputs
from arcentra_agent.plugins.base import Plugin, PluginMissingError, StepContext
from arcentra_agent.process import Launcher
from arcentra_agent.secret_values import LEAST_BYTES, SecretValues, is_maskable
from arcentra_agent.workdir import WorkDir
from arcentra_agent.workspaces import Workspaces, remove_tree
from arcentra_api.agent.v1 import agent_pb2

_log = structlog.get_logger("arcentra_agent")


@dataclass(frozen=True, slots=True)
class Site:
    """What all step runs of this agent share."""

    work_dir: WorkDir
    workspaces: Workspaces
    launcher: Launcher
    shipper: LogShipper
    base_env: Mapping[str, str]
    plugins: Mapping[str, Plugin]


class Execution:
    """Runs a step once. It may be cancelled at any time; once its last process has ended, that changes nothing."""

    def __init__(self, site: Site, run: agent_pb2.StepRun) -> None:
        self._site = site
        self._run = run
        self._secrets = SecretValues(())
        self._outputs: Mapping[str, str] = {}
        self._stopped: Outcome | None = None
        self._deadline: asyncio.Timeout | None = None
        self._is_over = False
        self.log: StepLog | None = None

    def cancel(self, reason: str) -> None:
        """Stop the step because somebody wants it stopped."""
        if not self._is_over:
            self._stop(outcomes.cancelled(reason or "the step run was cancelled"))

    def _stop(self, outcome: Outcome) -> None:
        if self._stopped is not None:
            return
        self._stopped = outcome
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> Outcome:
        """Do what the step says and return what became of it; nothing but cancellation is raised."""
        started = time.monotonic()
        # Long values have many forms; building them is not for the event loop.
        self._secrets = await asyncio.to_thread(SecretValues, list(self._secret_values()))
        outcome = await self._judged(self._attempt())
        outcome = replace(self._stopped or outcome, outputs=self._outputs).without(self._secrets)
        if outcome.traceback:
            _log.error("step_run_broke", step_run_id=self._run.step_run_id, exception=outcome.traceback)
        duration = {"duration_ms": str(round((time.monotonic() - started) * 1000))}
        return replace(outcome, metrics={**outcome.metrics, **duration})

    async def _judged(self, doing: Awaitable[Outcome]) -> Outcome:
        try:
            return await doing
        except Exception as error:  # noqa: BLE001 - a plugin must not take the other step runs down
            return outcomes.outcome_of_error(error)

    async def _attempt(self) -> Outcome:
        run = self._run
        plugin, limit = self._plugin(), _time_limit(run)
        workspace = self._site.workspaces.enter(run.workspace, run.job_id)
        scratch = self._site.work_dir.scratch / run.step_run_id
        output = scratch / "output"
        try:
            env = step_environment(self._site.base_env, run, workspace, output)
            scratch.mkdir(exist_ok=True)
            output.touch(mode=0o600)
            path = self._site.work_dir.logs / f"{run.step_run_id}.log"
            spool = Spool(path, self._on_full, self._secrets.masker())
            self.log = self._site.shipper.open(run, spool)
            try:
                context = StepContext(workspace, scratch, env, spool.writer, self._site.launcher)
                return await self._do(limit, plugin, context, output)
            finally:
                await spool.close()
                self._site.shipper.end(self.log)
        finally:
            remove_tree(scratch)
            self._site.workspaces.leave(run.workspace, run.job_id)

    async def _do(self, limit: float | None, plugin: Plugin, context: StepContext, output: Path) -> Outcome:
        """Do the step to its end, and let nothing of it go on: then its outputs are final, and so is its log."""
        for line in self._notes():
            await context.say(line)
        try:
            outcome = await self._judged(self._within(limit, plugin, context))
        finally:
            await asyncio.to_thread(orphans.kill_orphans_of, self._run.step_run_id)
        try:
            self._outputs = self._checked(joined(await asyncio.to_thread(read_outputs, output), outcome.outputs))
        except OutputError as error:
            await context.say(f"{error}; none of the outputs is kept")
            if outcome.status == outcomes.SUCCESS:
                raise
        return outcome

    async def _within(self, limit: float | None, plugin: Plugin, context: StepContext) -> Outcome:
        args = _arguments(self._run)
        try:
            async with asyncio.timeout(limit) as self._deadline:
                if self._stopped is not None:
                    return self._stopped
                return outcomes.outcome_of(await plugin.run(self._run.action, args, context))
        except TimeoutError:
            if self._deadline is None or not self._deadline.expired():
                raise
            return outcomes.timed_out(self._run.timeout)
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

    def _secret_values(self) -> Iterator[str]:
        """Yield the values that are secret by where they stand."""
        yield from self._run.secrets.values()
        if plugin := self._site.plugins.get(self._run.uses):
            fields = self._run.args.fields
            yield from (fields[name].string_value for name in plugin.secret_args if name in fields)

    def _checked(self, outputs: Mapping[str, str]) -> Mapping[str, str]:
        if any(self._secrets.masked(name) != name for name in outputs):
            raise OutputError("outputs: the name of an output contains a secret")
        return outputs

    def _notes(self) -> Iterator[str]:
        """Yield what somebody who reads the log has to know of this step."""
        for name, value in sorted(self._run.secrets.items()):
            if not is_maskable(value):
                yield f"the value of the secret {name} is shorter than {LEAST_BYTES} bytes and is not masked"
        if self._run.artifacts:
            names = ", ".join(artifact.name for artifact in self._run.artifacts)
            yield f"artifacts are not kept by this version of the agent: {names}"

    def _on_full(self, error: OSError) -> None:
        self._stop(outcomes.failed(1, f"the log cannot be written: {error.strerror}", "disk_full"))

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


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("log_not_removed", path=str(path), error=str(error))
