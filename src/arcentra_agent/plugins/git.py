"""`uses: git`: `clone` brings a repository into the workspace, `checkout` moves it to another commit.

The git program does the work. It never asks a person: a repository that needs a password it was not given fails.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from arcentra_agent.plugins import arguments
from arcentra_agent.plugins.arguments import ArgumentError
from arcentra_agent.plugins.base import Args, StepContext, StepResult
from arcentra_agent.plugins.git_access import (
    ACCESS_ARGS,
    ASK_NO_HELPER,
    Access,
    answering,
    check_address,
    check_is_private,
    parse_access,
)

_FULL_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_NO_QUESTIONS = {"GIT_TERMINAL_PROMPT": "0", "GCM_INTERACTIVE": "never"}
_BATCH_SSH = "ssh -oBatchMode=yes"
# The source may be a local repository, and the workspace a mounted one, of another user.
_TRUST = ("-c", "safe.directory=*")
_QUIET = ("-c", "advice.detachedHead=false")
_EVERYTHING = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")


@dataclass(frozen=True, slots=True)
class Clone:
    """What to clone; `depth` 0 is the whole history, no branch and no commit is the repository's HEAD."""

    repo: str
    branch: str
    commit: str
    depth: int
    submodules: bool
    path: Path
    access: Access | None = None


@dataclass(frozen=True, slots=True)
class Checkout:
    """A branch, tag or commit, in a repository that is in the workspace already."""

    ref: str
    path: Path
    access: Access | None = None


def parse(action: str, args: Args, workspace: Path) -> Clone | Checkout:
    """Read the arguments; an empty action is `clone` when there is a `repo`, else `checkout`.

    Raises:
        ArgumentError: see there.
    """
    action = action or ("clone" if "repo" in args else "checkout")
    if action == "clone":
        arguments.check_known(args, ("repo", "branch", "commit", "depth", "submodules", "path", *ACCESS_ARGS))
        return Clone(
            repo=check_address(arguments.git_name(args, "repo", required=True)),
            branch=arguments.git_name(args, "branch"),
            commit=arguments.git_name(args, "commit"),
            depth=arguments.whole_number(args, "depth"),
            submodules=arguments.flag(args, "submodules"),
            path=arguments.inside(args, "path", workspace),
            access=parse_access(args),
        )
    if action == "checkout":
        arguments.check_known(args, ("ref", "path", *ACCESS_ARGS))
        return Checkout(
            ref=arguments.git_name(args, "ref", required=True),
            path=arguments.inside(args, "path", workspace),
            access=parse_access(args),
        )
    raise ArgumentError(f"action: git has clone and checkout, got {action[:64]!r}")


class GitPlugin:
    """Clones and checks out.

    The output `commit`, and the metric `git.commit`, is the commit that is in the workspace afterwards; `branch` is the
    branch or tag that was asked for, or the one that the repository has for its HEAD.
    """

    secret_args: ClassVar[frozenset[str]] = frozenset({"password", "token"})

    async def run(self, action: str, args: Args, context: StepContext) -> StepResult:
        todo = parse(action, args, context.workspace)
        git = _Git(context, todo.path)
        if todo.access is None:
            return await _do(git, todo)
        repo = todo.repo if isinstance(todo, Clone) else await git.answer("config", "remote.origin.url")
        check_is_private(repo)
        with answering(todo.access, repo, context.scratch) as env:
            return await _do(_Git(context, todo.path, env, ASK_NO_HELPER), todo)


class _Git:
    """The git program in one directory."""

    def __init__(
        self, context: StepContext, path: Path, env: Mapping[str, str] | None = None, options: tuple[str, ...] = ()
    ) -> None:
        self._context = context
        self._path = path
        self._env = {**_environment(context.env), **(env or {})}
        self._options = (*_TRUST, *options)

    async def __call__(self, *args: str) -> bool:
        return await self._context.run(("git", *self._options, *_QUIET, *args), cwd=self._path, env=self._env) == 0

    async def answer(self, *args: str) -> str:
        """Return what git prints, or an empty text if it fails."""
        code, text = await self._context.capture(("git", *self._options, *args), cwd=self._path, env=self._env)
        return text if code == 0 else ""

    async def fetch(self, *args: str, depth: int = 0) -> bool:
        shallow = (f"--depth={depth}",) if depth else ()
        return await self("fetch", "--no-recurse-submodules", *await self._serving(), *shallow, "origin", *args)

    async def default_branch(self) -> str:
        """Return the branch that the HEAD of the repository is at; an empty text if it is at none."""
        text = await self.answer("ls-remote", "--symref", *await self._serving(), "origin", "HEAD")
        found = re.match(r"ref: refs/heads/(\S+)\tHEAD", text)
        return found[1] if found else ""

    async def _serving(self) -> tuple[str, ...]:
        """Return the option by which the serving side of a local repository trusts it, as this side does.

        git clears `-c` settings before it serves a repository of the same host.
        """
        url = await self.answer("config", "remote.origin.url")
        is_local = url.startswith(("/", "./", "../", "file://"))
        return (f"--upload-pack=git {' '.join(_TRUST)} upload-pack",) if is_local else ()


async def _do(git: _Git, todo: Clone | Checkout) -> StepResult:
    return await (_clone(git, todo) if isinstance(todo, Clone) else _checkout(git, todo))


async def _clone(git: _Git, clone: Clone) -> StepResult:
    clone.path.mkdir(parents=True, exist_ok=True)
    if not await git("init", "--quiet") or not await _set_origin(git, clone.repo):
        return StepResult(1, f"git cannot make a repository in {clone.path.name}")
    commit = await _fetch_commit(git, clone) if clone.commit else await _fetch_branch(git, clone)
    if isinstance(commit, StepResult):
        return commit
    if not await git("checkout", "--force", "--detach", commit):
        return StepResult(1, f"git cannot check out {commit}")
    shallow = (f"--depth={clone.depth}",) if clone.depth else ()
    if clone.submodules and not await git("submodule", "update", "--init", "--recursive", *shallow):
        return StepResult(1, "git cannot fetch the submodules; the log says why")
    return _with_branch(await _where(git), clone.branch or ("" if clone.commit else await git.default_branch()))


async def _set_origin(git: _Git, repo: str) -> bool:
    if await git.answer("config", "remote.origin.url"):
        return await git("remote", "set-url", "origin", repo)
    return await git("remote", "add", "origin", repo)


async def _fetch_branch(git: _Git, clone: Clone) -> str | StepResult:
    """Fetch as little as will do and return the commit at the end of the branch, or say what is wrong."""
    wanted = clone.branch or "HEAD"
    if not await git.fetch(wanted, depth=clone.depth):
        return StepResult(1, f"git found no {wanted} in the repository, or could not fetch it; the log says why")
    return await git.answer("rev-parse", "FETCH_HEAD^{commit}")


async def _fetch_commit(git: _Git, clone: Clone) -> str | StepResult:
    """Fetch as little as will do and return the full id of the wanted commit, or say what is wrong."""
    # A server may refuse to serve a commit by its id, and a short id cannot be asked for: then everything is fetched.
    asked = _FULL_COMMIT.fullmatch(clone.commit) is not None and await git.fetch(clone.commit, depth=clone.depth)
    if not asked and not await git.fetch(*_EVERYTHING):
        return StepResult(1, "git cannot fetch from the repository; the log says why")
    commit = await git.answer("rev-parse", "--verify", "--end-of-options", f"{clone.commit}^{{commit}}")
    if commit:
        return commit
    return StepResult(1, f"git found no commit {clone.commit} in the repository: no branch and no tag has it")


async def _checkout(git: _Git, checkout: Checkout) -> StepResult:
    commit = await _resolve(git, checkout.ref)
    if not commit and await git.fetch(checkout.ref):
        commit = await git.answer("rev-parse", "FETCH_HEAD^{commit}")
    if not commit:
        return StepResult(1, f"git knows no {checkout.ref}, here or at the origin")
    if not await git("checkout", "--force", "--detach", commit):
        return StepResult(1, f"git cannot check out {checkout.ref}")
    return _with_branch(await _where(git), "" if commit.startswith(checkout.ref) else checkout.ref)


async def _resolve(git: _Git, ref: str) -> str:
    for name in (ref, f"origin/{ref}"):
        if commit := await git.answer("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"):
            return commit
    return ""


async def _where(git: _Git) -> StepResult:
    commit = await git.answer("rev-parse", "HEAD")
    return StepResult(0, metrics={"git.commit": commit}, outputs={"commit": commit})


def _with_branch(result: StepResult, branch: str) -> StepResult:
    return replace(result, outputs={**result.outputs, "branch": branch.removeprefix("refs/heads/")})


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    return {**_NO_QUESTIONS, "GIT_SSH_COMMAND": env.get("GIT_SSH_COMMAND", _BATCH_SSH)}
