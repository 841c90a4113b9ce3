"""Starts step hosts: keeps the process that they are forked from, and replaces it when it has ended."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import BinaryIO, Self

from arcentra_agent.step_host.files import StepFiles
from arcentra_agent.step_host.handle import HostHandle
from arcentra_agent.step_host.order import Order
from arcentra_agent.step_host.zygote import REQUEST_BYTES

_ATTEMPTS = 2
_ANSWER_TIMEOUT = 30.0
# What the agent is told by its environment is neither for its hosts nor for who looks at them.
_OWN_PREFIX = "ARCENTRA_"


class HostStarter:
    """Forks hosts from a zygote, one at a time. Hosts that are there do not need it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = {name: value for name, value in environ.items() if not name.startswith(_OWN_PREFIX)}
        self._lock = asyncio.Lock()
        self._zygote: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        async with self._lock:
            await asyncio.to_thread(self._close)

    @property
    def pids(self) -> set[int]:
        """The children whose end is waited for here."""
        return {self._zygote.pid} if self._zygote is not None else set()

    async def start(self, files: StepFiles, order: Order) -> HostHandle:
        """Start a host for a step whose files are there, and give it its order.

        Raises:
            OSError: when the system has no room for another process.
        """
        async with self._lock:
            writer = await asyncio.to_thread(self._ask, files)
        # Closed whatever fails: a host without its whole order ends, and one whose pipe stays open waits for ever.
        with os.fdopen(writer, "wb") as pipe:
            data = order.encoded()
            handle = HostHandle(files)
            await asyncio.to_thread(_give, pipe, data)
            return handle

    def _ask(self, files: StepFiles) -> int:
        """Have a host forked; return the write end of the pipe for its order.

        A zygote that ended may have forked before it did. Such a host never gets its order, so it ends without having
        done anything, and the pipes it listens to are replaced.
        """
        for _ in range(_ATTEMPTS):
            files.make_pipes()
            reader, writer = os.pipe()
            try:
                answer = self._exchange(files, reader)
            except OSError:
                self._close()
                os.close(writer)
                continue
            finally:
                os.close(reader)
            if "pid" in answer:
                return writer
            os.close(writer)
            raise OSError(answer["errno"], answer["error"])
        raise OSError("the process that step hosts are forked from ends as soon as it is started")

    def _exchange(self, files: StepFiles, order: int) -> dict[str, object]:
        channel = self._channel or self._open()
        request = json.dumps([str(files.directory), str(files.log), str(files.scratch)]).encode()
        socket.send_fds(channel, [request], [order])
        answer = channel.recv(REQUEST_BYTES)
        if not answer:
            raise BrokenPipeError("the zygote has ended")
        return dict(json.loads(answer))

    def _open(self) -> socket.socket:
        own, others = socket.socketpair()
        own.settimeout(_ANSWER_TIMEOUT)
        with others:
            # -P: what lies in the working directory is not to be imported.
            self._zygote = subprocess.Popen(  # noqa: S603 - this very program
                (sys.executable, "-P", "-m", "arcentra_agent.step_host.zygote", str(others.fileno())),
                env=self._environ,
                cwd="/",
                pass_fds=(others.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._channel = own
        return own

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.wait()
        self._channel = self._zygote = None


def _give(pipe: BinaryIO, order: bytes) -> None:
    """Write an order; a host that has ended needs none."""
    with contextlib.suppress(BrokenPipeError), pipe:
        pipe.write(order)
