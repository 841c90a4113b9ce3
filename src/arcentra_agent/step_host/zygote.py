"""The program that step hosts are forked from. It has everything imported and does nothing else, so a fork is cheap.

It reads requests from a socket, a line of JSON with the read end of the pipe for the order, and answers each by a line:
the process id of the host, or what went wrong. It ends with the agent. Hosts do not need it once they are there.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from arcentra_agent.step_host import host
from arcentra_agent.step_host.files import StepFiles

REQUEST_BYTES = 1 << 16


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    host.leave_signals_alone()
    # Hosts are nobody's business here; ignored, they need not be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # What is imported stays; a collection in a host must not touch, and so copy, the pages of it.
    gc.collect()
    gc.freeze()
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, REQUEST_BYTES, 1)
        if not request:
            return
        channel.sendall(json.dumps(_answer(channel, request, descriptors[0])).encode() + b"\n")


def _answer(channel: socket.socket, request: bytes, order: int) -> dict[str, object]:
    try:
        directory, log, scratch = (Path(path) for path in json.loads(request))
        return {"pid": _fork(channel, StepFiles(directory, log, scratch), order)}
    except OSError as error:
        return {"errno": error.errno, "error": f"a step host cannot be started: {error.strerror}"}
    finally:
        os.close(order)


def _fork(channel: socket.socket, files: StepFiles, order: int) -> int:
    """Fork a host that holds its end of the named pipes from its first moment on; return its process id."""
    # For both directions: neither opening waits for the agent, nor does the pipe end with it.
    with _opened(files.alive, os.O_RDWR), _opened(files.control, os.O_RDWR | os.O_NONBLOCK) as control:
        if pid := os.fork():
            return pid
        try:
            channel.close()
            host.serve(files, order, control)
        finally:
            os._exit(0)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
