"""The step host: one process that runs one step, whatever becomes of the agent that started it.

It is the leader of a session of its own, so nothing that is sent to the agent's terminal or group reaches it, and a
child subreaper, so nothing of the step gets away from it. A watchdog kills the step when nobody has renewed its lease
for too long: from then on the server may have given it to somebody else.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
import traceback

from arcentra_agent import orphans, outcomes
from arcentra_agent.outcomes import Outcome
from arcentra_agent.process import Launcher
from arcentra_agent.secret_values import SecretValues
from arcentra_agent.step_host import commands
from arcentra_agent.step_host.boot_clock import boottime
from arcentra_agent.step_host.commands import Discard, Feed, Stop
from arcentra_agent.step_host.files import StepFiles
from arcentra_agent.step_host.order import Order
from arcentra_agent.step_host.plugin_run import PluginRun, secret_values

# Seconds; the sleep of a machine stops timers, not the boot clock, so the clock is asked often.
_LOOK, _SHORTEST_LOOK = 1.0, 0.01
_REAP_INTERVAL = 10.0
_LONGEST_END = 10.0
_READ_BYTES = 1 << 16
_LOST = "the lease of the step was not renewed in time: its agent was gone, or could not reach the server"
# Ended by nobody but the agent or the watchdog. A handler, as what is ignored would be ignored by the step too.
_NOT_FOR_US = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def serve(files: StepFiles, order: int, control: int) -> None:
    """Run the step whose order comes from the descriptor `order`, and keep its outcome.

    Without a whole order nothing is done: the agent ended before it had written it.
    """
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _let_go_of_the_terminal()
    orphans.become_subreaper()
    with os.fdopen(order, "rb") as pipe:
        try:
            decoded = Order.decoded(pipe.read())
        except ValueError:
            return
    # Not before: until then another host may be the one of this step. Wanted only when the host has to be killed; a full
    # disk is no reason not to begin.
    with contextlib.suppress(OSError):
        files.keep_pid(os.getpid())
    try:
        _wait_for_processes_without_threads()
        asyncio.run(_Host(decoded, files, control).run())
    except Exception as error:  # noqa: BLE001 - nobody sees where it goes but the agent, by this file
        _end_in_disorder(files, decoded, error)


def leave_signals_alone() -> None:
    """Survive what is meant for the agent."""
    for number in _NOT_FOR_US:
        signal.signal(number, lambda *_: None)


def _end_in_disorder(files: StepFiles, order: Order, fault: Exception) -> None:
    """Let nothing of the step go on without its host, and tell the agent why."""
    text = fault_text(fault)
    end = boottime() + _LONGEST_END
    while orphans.kill_children().left and boottime() < end:
        time.sleep(_SHORTEST_LOOK)
    with contextlib.suppress(OSError):
        files.keep_fault(SecretValues(secret_values(order.spec)).masked(text))


def fault_text(fault: Exception) -> str:
    """Return the traceback of a fault; its last line tells what it was, also of one that a task group has wrapped."""
    while isinstance(fault, ExceptionGroup) and len(fault.exceptions) == 1:
        fault = fault.exceptions[0]
    return "".join(traceback.format_exception(fault))


class _Host:
    def __init__(self, order: Order, files: StepFiles, control: int) -> None:
        self._deadline = order.deadline
        self._files = files
        self._control = control
        self._launcher = Launcher(order.kill_grace)
        self._run = PluginRun(order, files, self._launcher)

    async def run(self) -> None:
        asyncio.get_running_loop().add_reader(self._control, self._take_commands)
        async with asyncio.TaskGroup() as tasks:
            watchdog = tasks.create_task(self._watch(), name="watchdog")
            reaper = tasks.create_task(self._reap(), name="reaper")
            outcome = await self._run.run()
            watchdog.cancel()
            reaper.cancel()
        self._keep(outcome)

    def _keep(self, outcome: Outcome) -> None:
        """Write the outcome down, and before it the log that it tells the size of."""
        if outcome.log_size:
            descriptor = os.open(self._files.log, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._files.keep_outcome(outcome)

    def _take_commands(self) -> None:
        for command in commands.decode(os.read(self._control, _READ_BYTES)):
            match command:
                case Feed(deadline=deadline):
                    self._deadline = max(self._deadline, deadline)
                case Stop(reason=reason, grace=grace):
                    self._run.stop(outcomes.cancelled(reason), grace=grace)
                case Discard():
                    self._run.discard_output()

    async def _watch(self) -> None:
        while (left := self._deadline - boottime()) > 0:  # noqa: ASYNC110 - no event tells that time is over
            await asyncio.sleep(min(_LOOK, max(_SHORTEST_LOOK, left)))
        # At once: the server waits only a little longer than this before it starts the step elsewhere.
        self._run.stop(outcomes.lost(_LOST), grace=0)

    async def _reap(self) -> None:
        """Reap adopted processes that ended while the step goes on."""
        while True:
            await asyncio.sleep(_REAP_INTERVAL)
            if not self._launcher.is_starting:
                orphans.reap_adopted(self._launcher.running)


def _let_go_of_the_terminal() -> None:
    """Hold nothing open that belongs to the agent: who reads its output waits for the end of it."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _wait_for_processes_without_threads() -> None:
    """Do as later versions of Python do by themselves, where the kernel has it."""
    if sys.version_info < (3, 12):
        with contextlib.suppress(OSError, AttributeError):
            os.close(os.pidfd_open(os.getpid()))
            asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
