"""How a step ends inside its host when what is to end resists: containers that take long, processes of another user.

In a process of its own, as a step host ends every child that its process has.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcentra_agent.step_host.host import fault_text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

_ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
_NOBODY = 65534

# Ends the container only when it is let, as a runtime does that is busy.
_RUNTIME = """#!/bin/sh
echo "$1" >> calls
case "$1" in
run) trap 'exit 143' TERM; sleep 1000 & wait;;
kill) while [ ! -e let ]; do sleep 0.01; done;;
esac
echo "$1-done" >> calls
"""
_PRELUDE = """
import asyncio, concurrent.futures.thread, os, subprocess, sys
from pathlib import Path
from arcentra_agent import orphans, outcomes
from arcentra_agent.process import Launcher
from arcentra_agent.step_host.boot_clock import boottime
from arcentra_agent.step_host.files import StepFiles, StepRecord
from arcentra_agent.step_host.order import Local, Order, StepSpec
from arcentra_agent.step_host.plugin_run import PluginRun

def plugin_run(script, image=""):
    root = Path.cwd()
    for name in ("steps", "logs", "scratch", "workspaces"):
        (root / name).mkdir()
    files = StepFiles.below(root, "step-1")
    files.create(StepRecord("step-1", 1, "lease"))
    spec = StepSpec("step-1", "p", "r", "j", "s", 1, "shell", image=image, args={"script": script})
    local = Local(0, (f"{root}/runtime",), ())
    order = Order(spec, str(root), {"PATH": os.environ["PATH"]}, 1000.0, boottime() + 3600, local)
    return PluginRun(order, files, Launcher(1000.0))

orphans.become_subreaper()
"""
_STOPPED_TWICE = """
async def called(name):
    while name not in Path("calls").read_text().split():
        await asyncio.sleep(0.01)

async def main():
    run = plugin_run("true", "image")
    task = asyncio.create_task(run.run())
    await called("run")
    run.stop(outcomes.cancelled("no longer wanted"))
    await called("kill")
    run.stop(outcomes.lost("no lease"), grace=0)
    # Time in which the runtime would be killed.
    await asyncio.sleep(0.5)
    Path("let").touch()
    print((await task).message)

Path("calls").touch()
asyncio.run(main())
"""
_WITH_ANOTHER_USER = """
other = subprocess.Popen(("sleep", "1000"))
real, effective, _ = os.getresuid()
user = int(sys.argv[1])
os.setresuid(user, user, effective)
print(orphans.kill_children())
print(asyncio.run(plugin_run("echo words").run()).status)
print(Path("logs/step-1.log").read_text())
os.setresuid(real, effective, effective)
other.kill()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that another user can reach, unlike those of the tests."""
    with tempfile.TemporaryDirectory() as root:
        yield Path(root)


def _printed(folder: Path, code: str, *args: str) -> list[str]:
    argv = (sys.executable, "-c", _PRELUDE + code, *args)
    return subprocess.run(argv, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\n")


def test_a_container_whose_end_takes_long_is_gone_although_the_step_is_killed_meanwhile(folder: Path) -> None:
    runtime = folder / "runtime"
    runtime.write_text(_RUNTIME)
    runtime.chmod(0o755)
    assert _printed(folder, _STOPPED_TWICE)[0] == "no longer wanted"
    ending = ["kill", "kill-done", "rm", "rm-done"]
    # Twice: the first may have come before the container was there.
    assert (folder / "calls").read_text().split() == ["image", "image-done", "run", *ending, *ending]


@_ROOT_ONLY
def test_processes_of_another_user_are_not_waited_for(folder: Path) -> None:
    folder.chmod(0o777)
    children, status, *log = _printed(folder, _WITH_ANOTHER_USER, str(_NOBODY))
    assert children == "Children(left=0, spared=1)"
    assert status == "SUCCESS"
    assert log[0] == "words"
    assert log[1].endswith("1 processes of another user go on: the agent may not end them")
    assert not any("stuck" in line for line in log)


def test_a_fault_is_told_without_the_groups_around_it() -> None:
    fault = ExceptionGroup("tasks", [ExceptionGroup("tasks", [ValueError("why")])])
    assert fault_text(fault).splitlines()[-1] == "ValueError: why"
    several = ExceptionGroup("tasks", [ValueError("why"), OSError("how")])
    assert "ValueError: why" in fault_text(several)
