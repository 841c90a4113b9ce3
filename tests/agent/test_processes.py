"""Real processes: groups that end as a whole, exit codes, and git with a real repository."""

import asyncio
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from arcentra_agent import orphans
from arcentra_agent.plugins import PLUGINS
from arcentra_agent.plugins.base import Args, StepContext, StepResult
from arcentra_agent.process import CannotStartError, Launcher
from arcentra_agent.workspaces import WorkspaceError, Workspaces, remove_tree
from tests.agent.processes import Gate, gone

pytestmark = pytest.mark.slow


class Stage:
    """A workspace and an open log file to run plugins in."""

    def __init__(self, root: Path, env: Mapping[str, str] | None = None) -> None:
        self.workspace = root / "workspace"
        self.scratch = root / "scratch"
        self.workspace.mkdir()
        self.scratch.mkdir()
        self.log = root / "log"
        self._env = {"PATH": os.environ["PATH"], "HOME": str(root), "GIT_CONFIG_NOSYSTEM": "1", **(env or {})}

    async def run(self, uses: str, args: Args, action: str = "") -> StepResult:
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            context = StepContext(self.workspace, self.scratch, self._env, output, Launcher(kill_grace=60))
            return await PLUGINS[uses].run(action, args, context)
        finally:
            os.close(output)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


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
        Workspaces(tmp_path, tmp_path, remove_tree).enter(name, "")


def test_a_workspace_goes_when_nobody_is_in_it_and_no_job_needs_it(tmp_path: Path) -> None:
    root, trash = tmp_path / "workspaces", tmp_path / "trash"
    root.mkdir()
    trash.mkdir()
    workspaces = Workspaces(root, trash, remove_tree)
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
    assert not list(trash.iterdir())


class Repository:
    """A real git repository with three commits: one on main, one on a branch, one that no branch reaches any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._git("init", "--quiet", "--initial-branch=main")
        self.first = self.commit("one")
        self.second = self.commit("two")
        self._git("tag", "v1", self.first)
        self._git("checkout", "--quiet", "-b", "topic")
        self.topic = self.commit("three")
        self._git("checkout", "--quiet", "main")

    def commit(self, content: str) -> str:
        (self.path / "file").write_text(content)
        self._git("add", "file")
        self._git("commit", "--quiet", "-m", content)
        return self._git("rev-parse", "HEAD")

    def _git(self, *args: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ("git", *identity, *args), cwd=self.path, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "origin")


@pytest.mark.parametrize("prefix", ["", "file://"])
@pytest.mark.parametrize(
    ("wanted", "content"),
    [
        ({}, "two"),
        ({"branch": "topic"}, "three"),
        ({"branch": "topic", "depth": 1}, "three"),
        ({"branch": "v1"}, "one"),
        ({"commit": "first"}, "one"),
        ({"commit": "first", "depth": 1, "branch": "main"}, "one"),
        ({"commit": "short"}, "three"),
    ],
)
async def test_clone(
    stage: Stage, repository: Repository, prefix: str, wanted: dict[str, object], content: str
) -> None:
    commits = {"first": repository.first, "short": repository.topic[:9]}
    named = {key: commits.get(str(value), value) for key, value in wanted.items()}
    result = await stage.run("git", {"repo": f"{prefix}{repository.path}", **named, "path": "src"}, "clone")
    assert result.exit_code == 0, stage.log.read_text()
    assert (stage.workspace / "src" / "file").read_text() == content
    head = {"one": repository.first, "two": repository.second, "three": repository.topic}[content]
    assert result.metrics == {"git.commit": head}


async def test_clone_again_and_checkout(stage: Stage, repository: Repository) -> None:
    for _ in range(2):
        assert (await stage.run("git", {"repo": str(repository.path)})).exit_code == 0
        (stage.workspace / "file").write_text("dirty")
    for ref, commit in (("topic", repository.topic), ("v1", repository.first), (repository.second, repository.second)):
        result = await stage.run("git", {"ref": ref}, "checkout")
        assert result.metrics == {"git.commit": commit}, stage.log.read_text()


@pytest.mark.parametrize("args", [{"branch": "nowhere"}, {"commit": "0" * 40}, {"commit": "beef"}])
async def test_what_cannot_be_cloned(stage: Stage, repository: Repository, args: dict[str, object]) -> None:
    result = await stage.run("git", {"repo": str(repository.path), **args})
    assert result.exit_code == 1
    assert "git found no" in result.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository to another user")
async def test_clone_of_another_users_repository(stage: Stage, repository: Repository) -> None:
    for path in (repository.path, *repository.path.rglob("*")):
        os.chown(path, 65534, 65534)
    result = await stage.run("git", {"repo": str(repository.path), "commit": repository.first, "depth": 1})
    assert result.exit_code == 0, stage.log.read_text()
