"""Processes that do what they can to outlive their step."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.agent.processes import Gate, gone, host_pids, is_alive, running_agent, script
from tests.support.fake_control_plane import FakeControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

# As daemons do that show a title in the list of processes: arguments and environment are overwritten by it.
_CLOBBERS_ITS_ENVIRONMENT = """
import ctypes, os, sys, time
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
begin, end = int(fields[47]), int(fields[48])
ctypes.memset(begin, 0, end - begin)
open(sys.argv[1], "w").write(f"{os.getpid()}")
time.sleep(1000)
"""


@pytest.mark.parametrize(
    "command",
    [
        "setsid env -i sleep 1000 & echo $! > {gate}",
        "setsid env -i bash -c 'trap \"\" TERM; sleep 1000 & echo $! > {gate}; wait' &",
        "setsid {python} {program} {gate} &",
    ],
)
@pytest.mark.parametrize("way", ["end", "cancel", "watchdog"])
async def test_a_process_without_the_environment_of_its_step_ends_with_it(
    plane: FakeControlPlane, tmp_path: Path, command: str, way: str
) -> None:
    told, gate = Gate(tmp_path / "told"), Gate(tmp_path / "gate")
    program = tmp_path / "program.py"
    program.write_text(_CLOBBERS_ITS_ENVIRONMENT)
    if way == "watchdog":
        plane.lease_ms = 3_000
    async with running_agent(plane, tmp_path / "work", "--kill-grace", "0.2") as agent:
        line = command.format(gate=told.path, python=sys.executable, program=program)
        step = plane.dispatch("step-1", args=script(line, f"read line < {gate.path}"))
        pid = int(await told.passed())
        try:
            await plane.until(lambda: step.is_running)
            (host,) = host_pids(agent.work_dir)
            match way:
                case "end":
                    await gate.open()
                case "cancel":
                    plane.cancel("step-1")
                case _:
                    await agent.kill()
            await gone(host)
            assert not is_alive(pid)
        finally:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
