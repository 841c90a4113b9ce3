"""The processes that send notifications, seen from the server: started when there is something to send, ended with it.

Each sends one message at a time. One that does not answer is killed, and the next message gets a new one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from arcentra_server.domain.deliveries import AppriseMessage, Delivery, Message

START_SECONDS = 60.0  # loading all services takes some two seconds, on a busy machine more
_KEPT = ("PATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NotifySettings:
    """What may be reached, and in which time.

    Args:
        allow: Destinations beyond the public internet: networks, addresses, HOST:PORT.
        allow_http: Whether connections without TLS are allowed.
        seconds: For a message, within the process.
        patience: For the answer of the process, then it is killed.
    """

    allow: tuple[str, ...] = ()
    allow_http: bool = False
    seconds: float = 10.0
    patience: float = 30.0


class NotifyProcesses:
    """See the module. `send` is called by as many tasks as messages are to be sent at a time."""

    def __init__(self, settings: NotifySettings) -> None:
        self._settings = settings
        self._idle: list[Process] = []

    async def send(self, message: Message) -> Delivery:
        """Send a message; whatever happens to the process is an answer."""
        process: Process | None = None
        try:
            process = await self._take()
            async with asyncio.timeout(self._settings.patience):
                answer = await _ask(process, _document(message))
        except TimeoutError:
            return Delivery(delivered=False, error="no answer in time")
        except (OSError, ValueError) as error:
            _log.warning("notify_process_failed", error=type(error).__name__)
            return Delivery(delivered=False, error="the process that sends notifications failed")
        else:
            if not answer.pop("last"):
                self._idle.append(process)
                process = None
            return Delivery(**answer)
        finally:
            if process is not None:
                await _end(process)

    async def aclose(self) -> None:
        """End all processes that do nothing."""
        while self._idle:
            await _end(self._idle.pop())

    async def _take(self) -> Process:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
            await _end(process)
        return await self._start()

    async def _start(self) -> Process:
        # Nothing of the server's environment: there may be credentials in it.
        env = {name: os.environ[name] for name in _KEPT if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "arcentra_server.notify"),
            env={**env, "LANG": "C.UTF-8"},
            cwd="/",
            stdin=PIPE,
            stdout=PIPE,
            stderr=None,
            start_new_session=True,
        )
        settings = self._settings
        try:
            async with asyncio.timeout(START_SECONDS):
                await _ask(
                    process,
                    {"allow": list(settings.allow), "allow_http": settings.allow_http, "seconds": settings.seconds},
                )
        except BaseException:
            await _end(process)
            raise
        _log.info("notify_process_started", pid=process.pid)
        return process


def _document(message: Message) -> dict[str, Any]:
    kind = "apprise" if isinstance(message, AppriseMessage) else "webhook"
    return {"kind": kind, **asdict(message)}


async def _ask(process: Process, document: Mapping[str, Any]) -> dict[str, Any]:
    """Write a line and read the answer.

    Raises:
        OSError: the process is gone.
        ValueError: it ended without an answer, or answered something else.
    """
    assert process.stdin is not None  # noqa: S101 - both are pipes, by `_start`
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(json.dumps(document).encode() + b"\n")
    await process.stdin.drain()
    answer = json.loads(await process.stdout.readline())
    if not isinstance(answer, dict):
        raise ValueError("not an answer")  # noqa: TRY004 - what was read is wrong, not a type of ours
    return answer


async def _end(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    await process.wait()
