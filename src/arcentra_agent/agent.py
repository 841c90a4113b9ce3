"""Puts the agent together, runs it, and stops it in order."""

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import structlog

from arcentra_agent import orphans
from arcentra_agent.channel import open_channel
from arcentra_agent.config import AgentConfig
from arcentra_agent.contact import Contact
from arcentra_agent.credentials import CredentialError
from arcentra_agent.environment import base_environment
from arcentra_agent.execution import Site
from arcentra_agent.health import Health, health_page
from arcentra_agent.joining import JoinRefusedError
from arcentra_agent.labels import LabelUpdates
from arcentra_agent.link import Link
from arcentra_agent.load import Load
from arcentra_agent.logs.shipper import LogShipper
from arcentra_agent.mailbox import Mailbox
from arcentra_agent.one_job import OneJob
from arcentra_agent.session import Desk, Session
from arcentra_agent.step_host.boot_clock import boottime
from arcentra_agent.step_host.files import StepRecord
from arcentra_agent.step_host.lease import Lease
from arcentra_agent.step_host.order import Local
from arcentra_agent.step_host.starter import HostStarter
from arcentra_agent.steps import StepBoard
from arcentra_agent.workdir import WorkDir, WorkDirBusyError
from arcentra_agent.workspaces import Workspaces

# Seconds for the last logs and reports after the last process has ended.
_LAST_REPORTS = 15.0
_REAP_INTERVAL = 10.0
# Seconds between two looks at whether jobs are over.
_LOOK = 0.1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Ends the agent and leaves its steps to the next process on its work directory.
_LEAVE = signal.SIGUSR2
_READ_AGAIN = signal.SIGHUP
_log = structlog.get_logger("arcentra_agent")

_T = TypeVar("_T")


class CannotRunError(Exception):
    """The agent cannot start or go on; the text is for its operator."""


class Agent:
    """One agent process.

    The first signal drains it, the second ends it at once; SIGUSR2 has it leave its steps, SIGHUP read its labels again.
    An agent that ends by a fault of its own leaves its steps as well; one that the server refuses ends them.
    """

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._stopping = asyncio.Event()
        self._board: StepBoard | None = None
        self._labels: LabelUpdates | None = None
        self._was_hurried = False
        self._is_leaving = False
        self._was_told_while_leaving = False

    async def run(self) -> int:
        """Serve until told to stop; return the exit code, 0 when everything was delivered.

        Raises:
            CannotRunError: see there.
        """
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(_LEAVE, self._on_leave)
        loop.add_signal_handler(_READ_AGAIN, self._on_read_again)
        try:
            with WorkDir(self._config.work_dir) as work_dir:
                return await self._serve(work_dir)
        except (WorkDirBusyError, OSError) as error:
            raise CannotRunError(str(error)) from error
        except ExceptionGroup as group:
            cause = _first(group)
            if isinstance(cause, JoinRefusedError | CredentialError | OSError):
                raise CannotRunError(str(cause)) from cause
            raise

    async def _serve(self, work_dir: WorkDir) -> int:
        workspaces = Workspaces(work_dir.workspaces, work_dir.trash.throw)
        one_job = None
        if self._config.once:
            held = [*(record.job_id for record in work_dir.left), *workspaces.job_ids]
            one_job = OneJob(self._stopping.set, work_dir.one_job, held)
        else:
            work_dir.one_job.unlink(missing_ok=True)
        async with HostStarter(os.environ) as starter, open_channel(self._config) as channel:
            link = Link(self._config, channel, work_dir.credential)
            delivered = await self._work(work_dir, workspaces, starter, link, one_job)
            if one_job is not None and not self._is_leaving:
                await link.unregister_if_new("its one job is over")
                one_job.forget()
                return 0 if delivered and one_job.went_well else 1
        return 0 if delivered else 1

    async def _work(
        self, work_dir: WorkDir, workspaces: Workspaces, starter: HostStarter, link: Link, one_job: OneJob | None
    ) -> bool:
        """Run what comes until told to stop; tell whether every outcome reached the server."""
        mailbox, shipper, lease = Mailbox(), LogShipper(link), Lease()
        base_env = base_environment(os.environ, self._config.pass_env)
        site = Site(work_dir, workspaces, starter, shipper, lease, base_env, self._config.kill_grace, self._local())
        contact, load = Contact(), Load(work_dir.root, work_dir.steps)
        self._labels = labels = LabelUpdates(link)
        async with asyncio.TaskGroup() as tasks:
            self._board = board = StepBoard(site, mailbox, tasks, self._config.capacity)
            desk = Desk(mailbox, board, workspaces, contact, load, work_dir.trash, one_job)
            health = Health(board, contact, lease, work_dir.logs)
            async with health_page(health, self._config.health_listen):
                await self._guarded(board, _adopted(board, work_dir.left))
                parts = {
                    "session": Session(link, desk).run(),
                    "log-shipper": shipper.run(),
                    "credential": link.store(),
                    "reaper": _reap(starter),
                    "load": load.run(),
                    "labels": labels.run(),
                }
                background = [tasks.create_task(self._guarded(board, part), name=name) for name, part in parts.items()]
                await self._guarded(board, self._stopping.wait())
                delivered = await self._guarded(board, self._leave(board) if self._is_leaving else self._drain(desk))
                for task in background:
                    task.cancel()
        return delivered

    async def _guarded(self, board: StepBoard, part: Coroutine[Any, Any, _T]) -> _T:
        """Run a part of the agent. When it fails, the agent ends, and its steps are the next one's."""
        try:
            return await part
        except JoinRefusedError:
            # Its steps are the server's again, and end with it.
            raise
        except Exception as error:
            _log.error("agent_broke", error=repr(error), step_runs_left=len(board))
            board.leave_now()
            raise

    def _local(self) -> Local:
        config = self._config
        return Local(config.spool_limit, config.container_runtime, config.container_options)

    async def _drain(self, desk: Desk) -> bool:
        """Take no new job, let those that are here finish, then cancel them; tell whether all outcomes were delivered."""
        delivered = await self._drained(desk)
        desk.board.abandon_all()
        return delivered

    async def _leave(self, board: StepBoard) -> bool:
        _log.info("leaving", step_runs=len(board))
        await board.leave_all()
        return True

    async def _drained(self, desk: Desk) -> bool:
        board = desk.board
        board.is_draining = True
        desk.mailbox.ask_for_heartbeat()
        _log.info("draining", step_runs=len(board), jobs=desk.workspaces.job_ids, seconds=self._config.drain_timeout)
        if not await _in_time(_finished(desk), self._config.drain_timeout):
            board.cancel_all("the agent is stopping")
            if not await _in_time(board.empty(), self._config.kill_grace + _LAST_REPORTS):
                _log.error("stopped_undelivered", step_runs=len(board))
                return False
        return not self._was_hurried

    def _on_signal(self) -> None:
        if self._is_leaving:
            # What was promised to go on goes on. Told twice, the agent does not wait for the server any more.
            if self._was_told_while_leaving and self._board is not None:
                self._board.hurry_leaving()
            self._was_told_while_leaving = True
            return
        if self._stopping.is_set() and self._board is not None:
            self._was_hurried = True
            self._board.abandon_all()
        self._stopping.set()

    def _on_leave(self) -> None:
        if not self._stopping.is_set():
            self._is_leaving = True
            self._stopping.set()

    def _on_read_again(self) -> None:
        if self._labels is not None:
            self._labels.ask()


async def _adopted(board: StepBoard, left: Iterable[StepRecord]) -> None:
    for record in left:
        board.adopt(record)


async def _finished(desk: Desk) -> None:
    """Wait until no step is left and none is to come: as long as the server can be heard, those of jobs that are here.

    A stream that breaks, or is to be opened anew, comes back within a heartbeat interval.
    """
    await desk.board.empty()
    heard_at = boottime()
    while not desk.board.is_closed and desk.workspaces.job_ids:
        if desk.one_job is not None and desk.one_job.is_over:
            return
        if desk.contact.is_connected:
            heard_at = boottime()
        elif boottime() - heard_at >= desk.contact.heartbeat_interval:
            return
        await asyncio.sleep(_LOOK)
        await desk.board.empty()


async def _in_time(waiting: Coroutine[Any, Any, None], seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await waiting
    except TimeoutError:
        return False
    return True


async def _reap(starter: HostStarter) -> None:
    """Reap what became a child of the agent when its parent ended, as in a container, where the agent is process 1."""
    while True:
        await asyncio.sleep(_REAP_INTERVAL)
        orphans.reap_adopted(starter.pids)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
