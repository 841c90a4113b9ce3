"""Which processes are counted as those of the steps."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcentra_agent.load import _Probe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

_FAMILY = (
    "import subprocess, sys; print(subprocess.Popen(['sleep', '1000'], stdout=2).pid, flush=True); sys.stdin.read()"
)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[dict[int, int]]:
    """Two hosts that have noted their numbers, each with a child: number of the host, number of the child."""
    families: dict[int, int] = {}
    processes = []
    for name in ("step-1", "step-2"):
        host = subprocess.Popen(
            (sys.executable, "-c", _FAMILY), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert host.stdout is not None
        families[host.pid] = int(host.stdout.readline())
        processes.append(host)
        (tmp_path / name).mkdir()
        (tmp_path / name / "pid").write_text(str(host.pid))
    yield families
    for host in processes:
        os.kill(families[host.pid], 9)
        host.communicate(timeout=30)


def _counted(steps: Path) -> set[int]:
    return {process.pid for process in _Probe(steps, steps)._processes()}


def test_the_hosts_of_all_steps_are_counted_with_what_is_below_them(tmp_path: Path, hosts: dict[int, int]) -> None:
    (tmp_path / "step-3").mkdir()
    (tmp_path / "step-3" / "pid").write_text("")
    assert _counted(tmp_path) == {*hosts, *hosts.values()}


def test_a_process_that_got_the_number_of_a_host_is_not_counted(tmp_path: Path, hosts: dict[int, int]) -> None:
    first, second = hosts
    before = (tmp_path / "step-1" / "pid").stat().st_mtime - 3600
    os.utime(tmp_path / "step-1" / "pid", (before, before))
    assert _counted(tmp_path) == {second, hosts[second]}
    assert first not in _counted(tmp_path)


def test_without_steps_nobody_is_looked_at(tmp_path: Path) -> None:
    assert _counted(tmp_path) == set()
