"""The fence, tried from inside: in a process of its own, since nothing takes it down again."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

_TRY = """
import os, socket, ssl, subprocess, sys
from arcentra_server.notify.confine import confine
from arcentra_server.notify.egress import Allowed, DestinationNotAllowed, Egress

port, folder = int(sys.argv[1]), sys.argv[2]
egress = Egress(Allowed.of([f"localhost:{port}"] if sys.argv[3] == "open" else []))
confine(egress, [folder + "/readable"])

def tcp(): return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
def udp(): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

try:
    exec(sys.argv[4])
except OSError as error:
    print(type(getattr(error, "reason", error)).__name__)  # urllib wraps it
else:
    print("done")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "readable").write_text("x")
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    return tmp_path


def attempt(folder: Path, code: str, *, is_open: bool = False) -> str:
    """Run a line behind the fence, with a server listening at `port`; answer what became of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = subprocess.run(
            [
                sys.executable,
                "-P",
                "-c",
                _TRY,
                str(server.getsockname()[1]),
                folder,
                "open" if is_open else "shut",
                code,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "tcp().connect(('127.0.0.1', port))",
        "tcp().connect_ex(('127.0.0.1', port))",
        "tcp().connect(('localhost', port))",
        "tcp().connect(('127.1', port))",
        "socket.create_connection(('localhost', port))",
        "import urllib.request; urllib.request.urlopen(f'http://[::ffff:127.0.0.1]:{port}/')",
        "ssl.create_default_context().wrap_socket(tcp(), server_hostname='x').connect(('127.0.0.1', port))",
        "udp().sendto(b'x', ('127.0.0.1', port))",
        "udp().sendmsg([b'x'], [], 0, ('127.0.0.1', port))",
        "udp().connect(('169.254.169.254', 80))",
        "socket.socket(socket.AF_UNIX).connect('/run/docker.sock')",
    ],
)
def test_no_way_leads_to_a_private_destination(folder: Path, code: str) -> None:
    assert attempt(folder, code) == "DestinationNotAllowed"


@pytest.mark.parametrize(
    "code",
    ["socket.create_connection(('localhost', port))", "tcp().connect(socket.getaddrinfo('localhost', port, 2)[0][4])"],
)
def test_what_is_allowed_is_reached_by_its_name(folder: Path, code: str) -> None:
    assert attempt(folder, code, is_open=True) == "done"


@pytest.mark.parametrize(
    "code",
    [
        "subprocess.run(['true'])",
        "os.system('true')",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/true', ['true'])",
        "os.fork()",
        "tcp().bind(('127.0.0.1', 0))",
        "import syslog; syslog.syslog('x')",
        "open(folder + '/secret')",
        "open(folder + '/link')",
        "open(folder + '/readable/../secret')",
        "os.open(folder + '/secret', os.O_RDONLY)",
        "open((folder + '/secret').encode())",
        "open('/proc/self/environ')",
        "open(folder + '/readable', 'a')",
        "open(os.__file__, 'r+')",
    ],
)
def test_no_programs_and_no_files_of_others(folder: Path, code: str) -> None:
    assert attempt(folder, code) == "PermissionError"


@pytest.mark.parametrize(
    "code", ["open(folder + '/readable')", "open(os.__file__)", "import calendar", "open('/dev/null', 'w')"]
)
def test_what_python_needs_is_readable(folder: Path, code: str) -> None:
    assert attempt(folder, code) == "done"
