"""A step run inside its host: from its order to its outcome."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from arcentra_agent import orphans, outcomes
from arcentra_agent.durations import parse_duration
from arcentra_agent.environment import step_environment
from arcentra_agent.logs.spool import Spool
from arcentra_agent.outcomes import InvalidStepError, Outcome
from arcentra_agent.outputs import OutputError, joined, read_outputs
from arcentra_agent.plugins import PLUGINS
from arcentra_agent.plugins.base import Plugin, PluginMissingError, StepContext
from arcentra_agent.process import Launcher
from arcentra_agent.secret_values import LEAST_BYTES, SecretValues, is_maskable
from arcentra_agent.step_host.container import ContainerPlugin, kill_noted
from arcentra_agent.step_host.files import StepFiles
from arcentra_agent.step_host.order import Order, StepSpec
from arcentra_agent.workspaces import remove_tree

# Seconds that killed processes get to end, those of a container runtime before they are killed, and between two looks.
_LONGEST_END, _LONGEST_REMOVAL, _LOOK_PAUSE = 10.0, 5.0, 0.005


class PluginRun:
    """Runs a step once. It may be stopped at any time; once its last process has ended, that changes nothing."""

    def __init__(self, order: Order, files: StepFiles, launcher: Launcher) -> None:
        self._order = order
        self._spec = order.spec
        self._files = files
        self._launcher = launcher
        self._secrets = SecretValues(())
        self._outputs: Mapping[str, str] = {}
        self._stopped: Outcome | None = None
        self._deadline: asyncio.Timeout | None = None
        self._work: asyncio.Task[Outcome] | None = None
        self._is_over = False
        self._log_size = 0
        self._spool: Spool | None = None
        self._is_unwanted = False

    def stop(self, outcome: Outcome, *, grace: float | None = None) -> None:
        """Have the step end with this outcome: TERM, `grace` seconds, KILL.

        Stopped again, it keeps its first outcome; without any grace it is killed now, whatever it was given before.
        """
        if self._is_over:
            return
        if grace is not None:
            self._launcher.kill_grace = grace
        is_ending = self._stopped is not None or not self._end(outcome)
        if is_ending and grace == 0 and self._work is not None:
            self._work.cancel()

    def discard_output(self) -> None:
        """Keep nothing more of the log, nor what there is of it; its size goes on to be counted."""
        self._is_unwanted = True
        if self._spool is not None:
            self._spool.discard()

    def _end(self, outcome: Outcome) -> bool:
        """Let the step end with this outcome; tell whether that is what ends it, and not its time that is over."""
        self._stopped = self._stopped or outcome
        if self._deadline is None or self._deadline.expired():
            return False
        self._deadline.reschedule(asyncio.get_running_loop().time())
        return True

    async def run(self) -> Outcome:
        """Do what the step says and return what became of it; nothing is raised."""
        started = time.monotonic()
        # Here and below nothing goes to a thread that only this step would wait for: threads cost more than they give.
        self._secrets = SecretValues(secret_values(self._spec))
        outcome = await self._judged(self._attempt())
        outcome = replace(self._stopped or outcome, outputs=self._outputs).without(self._secrets)
        duration = {"duration_ms": str(round((time.monotonic() - started) * 1000))}
        return replace(outcome, metrics={**outcome.metrics, **duration}, log_size=self._log_size)

    async def _judged(self, doing: Awaitable[Outcome]) -> Outcome:
        try:
            return await doing
        except Exception as error:  # noqa: BLE001 - whatever a plugin does, the step has an outcome
            return outcomes.outcome_of_error(error)

    async def _attempt(self) -> Outcome:
        plugin, limit = self._plugin(), _time_limit(self._spec)
        workspace, scratch = Path(self._order.workspace), self._files.scratch
        output = scratch / "output"
        try:
            env = step_environment(self._order.base_env, self._spec, workspace, output)
            scratch.mkdir(exist_ok=True)
            output.touch(mode=0o600)
            spool = Spool(self._files.log, self._on_full, self._secrets.masker(), self._order.local.spool_limit)
            self._spool = spool
            if self._is_unwanted:
                spool.discard()
            try:
                context = StepContext(workspace, scratch, env, spool.writer, self._launcher)
                return await self._do(limit, plugin, context, output)
            finally:
                self._spool = None
                await spool.close()
                self._log_size = spool.size
        finally:
            remove_tree(scratch)

    async def _do(self, limit: float | None, plugin: Plugin, context: StepContext, output: Path) -> Outcome:
        """Do the step to its end, and let nothing of it go on: then its outputs are final, and so is its log."""
        for line in self._notes():
            await context.say(line)
        try:
            outcome = await self._judged(self._within(limit, plugin, context))
        finally:
            await self._end_children(plugin, context)
        try:
            self._outputs = self._checked(joined(read_outputs(output), outcome.outputs))
        except OutputError as error:
            await context.say(f"{error}; none of the outputs is kept")
            if outcome.status == outcomes.SUCCESS:
                raise
        return outcome

    async def _end_children(self, plugin: Plugin, context: StepContext) -> None:
        """End what the step has left running, also what threw its environment away and went into a group of its own."""
        unfinished = 0
        if isinstance(plugin, ContainerPlugin):
            # The client that ends the container is a child too.
            await plugin.ended(_LONGEST_END)
        if self._spec.image and self._stopped is None:
            # podman's, which removes what belonged to the container when the program that was waited for has ended.
            unfinished = await _until_gone(lambda: orphans.children_named("conmon"), _LONGEST_REMOVAL)
        if left := await _until_gone(lambda: orphans.kill_children().left, _LONGEST_END):
            await context.say(f"{left} processes of the step do not end: they are stuck in the kernel")
        if spared := orphans.kill_children().spared:
            await context.say(f"{spared} processes of another user go on: the agent may not end them")
        if unfinished or (self._spec.image and self._stopped is not None):
            # Stopped, its client may have been killed while the container was being made.
            await asyncio.to_thread(kill_noted, self._files.container)

    async def _within(self, limit: float | None, plugin: Plugin, context: StepContext) -> Outcome:
        # A task of its own: killing it ends the plugin and nothing of what comes after it.
        self._work = asyncio.create_task(self._timed(limit, plugin, context), name="plugin")
        await asyncio.wait([self._work])
        self._is_over = True
        if self._work.cancelled() and self._stopped is not None:
            return self._stopped
        return self._work.result()

    async def _timed(self, limit: float | None, plugin: Plugin, context: StepContext) -> Outcome:
        try:
            async with asyncio.timeout(limit) as self._deadline:
                if self._stopped is not None:
                    return self._stopped
                return outcomes.outcome_of(await plugin.run(self._spec.action, self._spec.args, context))
        except TimeoutError:
            if self._deadline is None or not self._deadline.expired():
                raise
            return outcomes.timed_out(self._spec.timeout)
        finally:
            self._is_over, self._deadline = True, None

    def _plugin(self) -> Plugin:
        if self._spec.image:
            return ContainerPlugin(self._order, self._files.container)
        try:
            return PLUGINS[self._spec.uses]
        except KeyError as error:
            known = ", ".join(sorted(PLUGINS))
            raise PluginMissingError(f"this agent has no plugin {self._spec.uses!r}; it has {known}") from error

    def _checked(self, outputs: Mapping[str, str]) -> Mapping[str, str]:
        if any(self._secrets.masked(name) != name for name in outputs):
            raise OutputError("outputs: the name of an output contains a secret")
        return outputs

    def _notes(self) -> Iterator[str]:
        """Yield what somebody who reads the log has to know of this step."""
        for name, value in sorted(self._spec.secrets.items()):
            if not is_maskable(value):
                yield f"the value of the secret {name} is shorter than {LEAST_BYTES} bytes and is not masked"
        if self._spec.artifacts:
            names = ", ".join(self._spec.artifacts)
            yield f"artifacts are not kept by this version of the agent: {names}"

    def _on_full(self, error: OSError) -> None:
        # Also when the last process has ended: what it wrote last is not there.
        self._end(outcomes.failed(1, f"the log cannot be written: {error.strerror}", "disk_full"))


async def _until_gone(left: Callable[[], int], longest: float) -> int:
    """Call `left` until it returns 0, or `longest` seconds are over; return what it returned last."""
    end = time.monotonic() + longest
    while (count := left()) and time.monotonic() < end:  # noqa: ASYNC110 - orphans tell nobody that they end
        await asyncio.sleep(_LOOK_PAUSE)
    return count


def secret_values(spec: StepSpec) -> Iterator[str]:
    """Yield the values that are secret by where they stand."""
    yield from spec.secrets.values()
    if plugin := PLUGINS.get(spec.uses):
        values = (spec.args.get(name) for name in plugin.secret_args)
        yield from (value for value in values if isinstance(value, str))


def _time_limit(spec: StepSpec) -> float | None:
    if not spec.timeout:
        return None
    try:
        return parse_duration(spec.timeout)
    except ValueError as error:
        raise InvalidStepError(f"timeout: {error}") from error
