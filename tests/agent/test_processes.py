"""Real processes: groups that end as a whole, exit codes, and the workspaces they work in."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from arcentra_agent import orphans
from arcentra_agent.plugins.base import Args
from arcentra_agent.process import CannotStartError
from arcentra_agent.trash import Trash
from arcentra_agent.workspaces import WorkspaceError, Workspaces, remove_tree
from tests.agent.processes import Gate, gone
from tests.agent.stage import Stage

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("args", "code", "log"),
    [
        ({"script": "echo out; echo err >&2"}, 0, "out\nerr\n"),
        ({"script": "false; echo not reached"}, 1, ""),
        ({"script": "kill -TERM $$"}, 143, ""),
        ({"script": "print(6 * 7)", "shell": "python3"}, 0, "42\n"),
        ({"command": "echo a | tr a b"}, 0, "b\n"),
        ({"command": ["printf", "%s", "$HOME;"]}, 0, "$HOME;"),
        ({"command": ["true"]}, 0, ""),
        ({"command": "cat"}, 0, ""),
    ],
)
async def test_shell(stage: Stage, args: Args, code: int, log: str) -> None:
    result = await stage.run("shell", args)
    assert result.exit_code == code
    assert bool(result.message) == (code != 0)
    assert stage.log.read_text() == log


async def test_a_program_that_is_not_there(stage: Stage) -> None:
    with pytest.raises(CannotStartError, match="no such program or directory: /no/such") as caught:
        await stage.run("shell", {"command": ["/no/such"]})
    assert caught.value.exit_code == 127


async def test_what_a_step_leaves_running_ends_with_it(stage: Stage, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    async with asyncio.TaskGroup() as tasks:
        step = tasks.create_task(stage.run("shell", {"script": f"sleep 1000 & echo $! > {gate.path}"}))
        pid = int(await gate.passed())
        assert (await step).exit_code == 0
    await gone(pid)


async def test_a_cancelled_step_gets_time_to_clean_up(stage: Stage, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    script = f"trap 'echo cleaned; exit 1' TERM\necho > {gate.path}\nsleep 1000 & wait"
    async with asyncio.TaskGroup() as tasks:
        step = tasks.create_task(stage.run("shell", {"script": script}))
        await gate.passed()
        step.cancel()
        await asyncio.wait([step])
    assert step.cancelled()
    assert stage.log.read_text() == "cleaned\n"


async def test_stale_processes_are_found_by_their_workspace(tmp_path: Path) -> None:
    root, ready, never = tmp_path / "workspaces", Gate(tmp_path / "ready"), Gate(tmp_path / "never")
    env = {"PATH": os.environ["PATH"], "ARCENTRA_WORKSPACE": f"{root}/job-1"}
    script = f"echo > {ready.path}; read line < {never.path}"
    process = await asyncio.create_subprocess_exec("sh", "-c", script, env=env, start_new_session=True)
    await ready.passed()
    assert orphans.kill_stale(tmp_path / "work") == 0
    assert orphans.kill_stale(root) == 1
    assert await process.wait() == -9


@pytest.mark.parametrize("name", ["", "..", "a/b", "/a", "a b", "-a", ".git", "x" * 200, "ä", "a\n"])
def test_workspaces_have_safe_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(WorkspaceError, match="expected a name"):
        Workspaces(tmp_path, remove_tree).enter(name, "")


def test_a_workspace_goes_when_nobody_is_in_it_and_no_job_needs_it(tmp_path: Path) -> None:
    root = tmp_path / "workspaces"
    root.mkdir()
    workspaces = Workspaces(root, remove_tree)
    path = workspaces.enter("shared", "job-1")
    workspaces.enter("shared", "job-2")
    (path / "cache" / "closed").mkdir(parents=True)
    (path / "link").symlink_to(root)
    (path / "cache" / "closed").chmod(0)
    (path / "cache").chmod(0o500)
    workspaces.leave("shared", "job-2")
    workspaces.release("job-1")
    assert workspaces.job_ids == ["job-2"]
    workspaces.release("job-2")
    assert path.exists()
    workspaces.leave("shared", "job-1")
    assert not path.exists()
    assert workspaces.job_ids == []


def test_what_is_thrown_away_is_deleted_by_a_thread_that_nothing_waits_for(tmp_path: Path) -> None:
    root, begun = tmp_path / "trash", threading.active_count()
    (root / "workspace-1").mkdir(parents=True)
    trash = Trash(root)
    for name in ("one", "two"):
        (tmp_path / name / "workspace-1").mkdir(parents=True)
        trash.throw(tmp_path / name)
    trash.throw(tmp_path / "one")
    assert len(list(root.iterdir())) == 3
    trash.begin()
    trash.begin()
    assert threading.active_count() == begun + 1
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "trash")
    while list(root.iterdir()):
        os.sched_yield()
    (tmp_path / "three").mkdir()
    trash.throw(tmp_path / "three")
    while list(root.iterdir()):
        os.sched_yield()
