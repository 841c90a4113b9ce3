"""Crash points: what arms them, what they do, and that the list of them is the code's."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import arcentra_server
from arcentra_server import crashpoint

PACKAGE = Path(arcentra_server.__file__).parent
PROGRAM = """
from arcentra_server.crashpoint import crashpoint
for number in range(3):
    print(number, flush=True)
    crashpoint("claim.sent")
    crashpoint("claim.after_commit")
"""


def placed() -> Iterator[str]:
    """Yield the name at each call of `crashpoint` in the server."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "crashpoint":
                [argument] = node.args
                assert isinstance(argument, ast.Constant), f"{path}:{node.lineno}: write the name out"
                yield str(argument.value)


def run(setting: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, crashpoint.VARIABLE: setting}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False)


def test_every_point_stands_once_in_the_code_and_in_the_list() -> None:
    assert Counter(placed()) == Counter(crashpoint.POINTS.keys())


def test_there_are_enough_points() -> None:
    assert len(crashpoint.POINTS) >= 30


@pytest.mark.parametrize(
    ("setting", "lines"), [("claim.sent", 1), ("claim.sent:2", 2), ("claim.after_commit:3:kill", 3)]
)
def test_a_process_dies_at_the_named_point_at_the_named_time(setting: str, lines: int) -> None:
    done = run(setting)
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.split()) == lines


def test_a_point_raises_when_it_is_told_to() -> None:
    done = run("claim.sent:1:raise")
    assert done.returncode == 1
    assert "CrashPointReached: claim.sent" in done.stderr


def test_a_process_lives_when_nothing_or_another_point_is_armed() -> None:
    for setting in ("", "cron.noted"):
        done = run(setting)
        assert (done.returncode, done.stdout.split()) == (0, ["0", "1", "2"])


@pytest.mark.parametrize("setting", ["no.such", "claim.sent:0", "claim.sent:x", "claim.sent:1:explode"])
def test_a_wrong_setting_ends_the_process_with_a_reason(setting: str) -> None:
    done = run(setting)
    assert done.returncode == 1
    assert f"{crashpoint.VARIABLE}={setting}" in done.stderr
