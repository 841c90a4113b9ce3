"""Puts the agent together, runs it, and stops it in order."""

import asyncio
import os
import signal
from pathlib import Path

import structlog

from arcentra_agent import orphans
from arcentra_agent.channel import open_channel
from arcentra_agent.config import AgentConfig
from arcentra_agent.credentials import CredentialError
from arcentra_agent.environment import base_environment
from arcentra_agent.execution import Site
from arcentra_agent.joining import JoinRefusedError
from arcentra_agent.link import Link
from arcentra_agent.logs.shipper import LogShipper
from arcentra_agent.mailbox import Mailbox
from arcentra_agent.plugins import PLUGINS
from arcentra_agent.process import Launcher
from arcentra_agent.session import Session
from arcentra_agent.steps import StepBoard
from arcentra_agent.workdir import WorkDir, WorkDirBusyError
from arcentra_agent.workspaces import Workspaces, remove_tree

# Seconds for the last logs and reports after the last process has ended.
_LAST_REPORTS = 15.0
_REAP_INTERVAL = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = structlog.get_logger("arcentra_agent")


class CannotRunError(Exception):
    """The agent cannot start or go on; the text is for its operator."""


class Agent:
    """One agent process. The first signal drains it, the second ends it at once."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._stopping = asyncio.Event()
        self._board: StepBoard | None = None
        self._was_hurried = False

    async def run(self) -> int:
        """Serve until told to stop; return the exit code, 0 when everything was delivered.

        Raises:
            CannotRunError: see there.
        """
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        try:
            with WorkDir(self._config.work_dir) as work_dir:
                orphans.become_subreaper()
                return await self._serve(work_dir)
        except (WorkDirBusyError, OSError) as error:
            raise CannotRunError(str(error)) from error
        except ExceptionGroup as group:
            cause = _first(group)
            if isinstance(cause, JoinRefusedError | CredentialError | OSError):
                raise CannotRunError(str(cause)) from cause
            raise

    async def _serve(self, work_dir: WorkDir) -> int:
        async with open_channel(self._config) as channel, asyncio.TaskGroup() as tasks:
            link = Link(self._config, channel, work_dir.credential)
            mailbox, shipper = Mailbox(), LogShipper(link)
            launcher = Launcher(self._config.kill_grace)
            workspaces = Workspaces(work_dir.workspaces, work_dir.trash, _discard)
            base_env = base_environment(os.environ, self._config.pass_env)
            site = Site(work_dir, workspaces, launcher, shipper, base_env, PLUGINS)
            self._board = board = StepBoard(site, mailbox, tasks, self._config.capacity)
            session = Session(link, mailbox, board, workspaces)
            background = [
                tasks.create_task(session.run(), name="session"),
                tasks.create_task(shipper.run(), name="log-shipper"),
                tasks.create_task(_reap(launcher), name="reaper"),
            ]
            await self._stopping.wait()
            delivered = await self._drain(board, mailbox)
            board.abandon_all()
            for task in background:
                task.cancel()
        return 0 if delivered else 1

    async def _drain(self, board: StepBoard, mailbox: Mailbox) -> bool:
        """Take nothing new, let what runs finish, then cancel it; tell whether every outcome reached the server."""
        board.is_draining = True
        mailbox.ask_for_heartbeat()
        _log.info("draining", step_runs=len(board), seconds=self._config.drain_timeout)
        if not await _emptied(board, self._config.drain_timeout):
            board.cancel_all("the agent is stopping")
            if not await _emptied(board, self._config.kill_grace + _LAST_REPORTS):
                _log.error("stopped_undelivered", step_runs=len(board))
                return False
        return not self._was_hurried

    def _on_signal(self) -> None:
        if self._stopping.is_set() and self._board is not None:
            self._was_hurried = True
            self._board.abandon_all()
        self._stopping.set()


async def _emptied(board: StepBoard, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await board.empty()
    except TimeoutError:
        return False
    return True


def _discard(tree: Path) -> None:
    """Delete a tree in the background; what is left when the agent ends is deleted by the next start."""
    asyncio.get_running_loop().run_in_executor(None, remove_tree, tree)


async def _reap(launcher: Launcher) -> None:
    """Reap adopted processes that ended while their step goes on."""
    while True:
        await asyncio.sleep(_REAP_INTERVAL)
        if not launcher.is_starting:
            orphans.reap_adopted(launcher.running)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
