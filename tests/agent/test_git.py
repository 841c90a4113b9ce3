"""The plugin git with real repositories and a real server: what is cloned, how it gets in, and what is said if not."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcentra_agent.plugins.arguments import ArgumentError
from arcentra_agent.plugins.base import StepResult
from tests.agent.stage import Repository, Stage
from tests.support.git_http import GitServer, git_server

pytestmark = pytest.mark.slow


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
    branch = named.get("branch", "" if "commit" in named else "main")
    assert result.outputs == {"commit": head, "branch": branch}


async def test_clone_again_and_checkout(stage: Stage, repository: Repository) -> None:
    for _ in range(2):
        assert (await stage.run("git", {"repo": str(repository.path)})).exit_code == 0
        (stage.workspace / "file").write_text("dirty")
    for ref, commit in (("topic", repository.topic), ("v1", repository.first), (repository.second, repository.second)):
        result = await stage.run("git", {"ref": ref}, "checkout")
        assert result.metrics == {"git.commit": commit}, stage.log.read_text()
        assert result.outputs == {"commit": commit, "branch": "" if ref == commit else ref}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"branch": "nowhere"}, "git found no nowhere in the repository, or could not fetch it; the log says why"),
        ({"commit": "0" * 40}, f"git found no commit {'0' * 40} in the repository: no branch and no tag has it"),
        ({"commit": "beef"}, "git found no commit beef in the repository: no branch and no tag has it"),
    ],
)
async def test_what_cannot_be_cloned(
    stage: Stage, repository: Repository, args: dict[str, object], message: str
) -> None:
    result = await stage.run("git", {"repo": str(repository.path), **args})
    assert result == StepResult(1, message)


async def test_a_detached_head_has_no_branch(stage: Stage, repository: Repository) -> None:
    (repository.path / ".git" / "HEAD").write_text(f"{repository.first}\n")
    result = await stage.run("git", {"repo": str(repository.path)})
    assert result.outputs == {"commit": repository.first, "branch": ""}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository to another user")
async def test_clone_of_another_users_repository(stage: Stage, repository: Repository) -> None:
    for path in (repository.path, *repository.path.rglob("*")):
        os.chown(path, 65534, 65534)
    result = await stage.run("git", {"repo": str(repository.path), "commit": repository.first, "depth": 1})
    assert result.exit_code == 0, stage.log.read_text()


USER, PASSWORD = "x-access-token", "hunter2/hunter2+hunter2"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path, USER, PASSWORD) as server:
        yield server


def spied_on(stage: Stage, root: Path) -> Path:
    """Put a git before git that writes its arguments down; return the file. A careless helper would store passwords."""
    folder = root / "bin"
    folder.mkdir()
    script = folder / "git"
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {root}/argv\nexec {shutil.which("git")} "$@"\n')
    script.chmod(0o755)
    stage.env["PATH"] = f"{folder}:{stage.env['PATH']}"
    (root / ".gitconfig").write_text("[credential]\n\thelper = store\n\tuseHttpPath = true\n")
    return root / "argv"


def everything_below(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


@pytest.mark.parametrize(
    "access",
    [{"token": PASSWORD}, {"username": USER, "token": PASSWORD}, {"username": USER, "password": PASSWORD}],
)
async def test_a_password_is_given_to_git_and_kept_nowhere(
    stage: Stage, repository: Repository, server: GitServer, tmp_path: Path, access: dict[str, object]
) -> None:
    argv = spied_on(stage, tmp_path)
    result = await stage.run("git", {"repo": server.url("origin"), "depth": 1, **access})
    assert result.outputs == {"commit": repository.second, "branch": "main"}, stage.log.read_text()
    assert server.credentials == {"", f"{USER}:{PASSWORD}"}
    assert "hunter2" not in argv.read_text() + stage.log.read_text()
    assert b"hunter2" not in everything_below(stage.workspace)
    assert not list(stage.scratch.iterdir())
    assert not (tmp_path / ".git-credentials").exists()


async def test_a_commit_by_its_id_and_one_that_is_not_there(
    stage: Stage, repository: Repository, server: GitServer
) -> None:
    args = {"repo": server.url("origin"), "token": PASSWORD, "branch": "main", "depth": 1}
    result = await stage.run("git", {**args, "commit": repository.first})
    assert result.outputs == {"commit": repository.first, "branch": "main"}, stage.log.read_text()
    missing = await stage.run("git", {**args, "commit": "f" * 40})
    assert missing == StepResult(1, f"git found no commit {'f' * 40} in the repository: no branch and no tag has it")


async def test_another_commit_of_a_repository_with_a_password(
    stage: Stage, repository: Repository, server: GitServer
) -> None:
    access = {"token": PASSWORD}
    assert (await stage.run("git", {"repo": server.url("origin"), "branch": "main", **access})).exit_code == 0
    refused = await stage.run("git", {"ref": "topic"})
    assert refused.exit_code == 1
    result = await stage.run("git", {"ref": "topic", **access})
    assert result.outputs == {"commit": repository.topic, "branch": "topic"}, stage.log.read_text()


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("access", [{}, {"token": "hunter3-hunter3"}])
async def test_a_wrong_password_is_not_asked_for_again(
    stage: Stage, server: GitServer, access: dict[str, object]
) -> None:
    result = await stage.run("git", {"repo": server.url("origin"), "commit": "a" * 40, **access})
    assert result == StepResult(1, "git cannot fetch from the repository; the log says why")
    assert "hunter" not in stage.log.read_text()
    assert not list(stage.scratch.iterdir())


async def test_submodules_of_the_same_host_get_the_password(
    stage: Stage, repository: Repository, server: GitServer, tmp_path: Path
) -> None:
    module = Repository(tmp_path / "module")
    repository.add_submodule("../module", module.first, "deps/module")
    result = await stage.run("git", {"repo": server.url("origin"), "token": PASSWORD, "submodules": True})
    assert result.exit_code == 0, stage.log.read_text()
    assert (stage.workspace / "deps" / "module" / "file").read_text() == "one"


async def test_no_other_host_gets_the_password(
    stage: Stage, repository: Repository, server: GitServer, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    with git_server(tmp_path / "elsewhere", "thief", "thief") as elsewhere:
        path = f"module/@127.0.0.1:{server.port}"
        repository.add_submodule(elsewhere.url(path), repository.first, "deps/module")
        result = await stage.run("git", {"repo": server.url("origin"), "token": PASSWORD, "submodules": True})
        assert result == StepResult(1, "git cannot fetch the submodules; the log says why")
        assert elsewhere.credentials == {""}
    assert "no password was given for what git asks" in stage.log.read_text()


@pytest.mark.parametrize("repo", ["http://example.com/r", "ssh://git@example.com/r", "git@example.com:r", "/srv/r"])
async def test_a_password_goes_over_https_only(stage: Stage, repo: str) -> None:
    with pytest.raises(ArgumentError, match=r"args\.repo: user name, password and token need an https:// address"):
        await stage.run("git", {"repo": repo, "token": PASSWORD})
