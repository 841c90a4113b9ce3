"""`uses: git`: `clone` brings a repository into the workspace, `checkout` moves it to another commit.

The git program does the work. It never asks a question: a repository that needs a password it was not given fails.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arcentra_agent.plugins import arguments
from arcentra_agent.plugins.arguments import ArgumentError
from arcentra_agent.plugins.base import Args, StepContext, StepResult

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


@dataclass(frozen=True, slots=True)
class Checkout:
    """A branch, tag or commit, in a repository that is in the workspace already."""

    ref: str
    path: Path


def parse(action: str, args: Args, workspace: Path) -> Clone | Checkout:
    """Read the arguments; an empty action is `clone` when there is a `repo`, else `checkout`.

    Raises:
        ArgumentError: see there.
    """
    action = action or ("clone" if "repo" in args else "checkout")
    if action == "clone":
        arguments.check_known(args, ("repo", "branch", "commit", "depth", "submodules", "path"))
        return Clone(
            repo=arguments.git_name(args, "repo", required=True),
            branch=arguments.git_name(args, "branch"),
            commit=arguments.git_name(args, "commit"),
            depth=arguments.whole_number(args, "depth"),
            submodules=arguments.flag(args, "submodules"),
            path=arguments.inside(args, "path", workspace),
        )
    if action == "checkout":
        arguments.check_known(args, ("ref", "path"))
        return Checkout(arguments.git_name(args, "ref", required=True), arguments.inside(args, "path", workspace))
    raise ArgumentError(f"action: git has clone and checkout, got {action[:64]!r}")


class GitPlugin:
    """Clones and checks out; the metric `git.commit` is the commit that is in the workspace afterwards."""

    async def run(self, action: str, args: Args, context: StepContext) -> StepResult:
        match parse(action, args, context.workspace):
            case Clone() as clone:
                return await _clone(_Git(context, clone.path), clone)
            case Checkout() as checkout:
                return await _checkout(_Git(context, checkout.path), checkout)


class _Git:
    """The git program in one directory."""

    def __init__(self, context: StepContext, path: Path) -> None:
        self._context = context
        self._path = path
        self._env = _environment(context.env)

    async def __call__(self, *args: str) -> bool:
        return await self._context.run(("git", *_TRUST, *_QUIET, *args), cwd=self._path, env=self._env) == 0

    async def answer(self, *args: str) -> str:
        """Return what git prints, or an empty text if it fails."""
        code, text = await self._context.capture(("git", *_TRUST, *args), cwd=self._path, env=self._env)
        return text if code == 0 else ""

    async def fetch(self, *args: str, depth: int = 0) -> bool:
        shallow = (f"--depth={depth}",) if depth else ()
        # git clears `-c` settings before it serves a local repository, hence once more for the serving side.
        local = () if await self._is_remote() else (f"--upload-pack=git {' '.join(_TRUST)} upload-pack",)
        return await self("fetch", "--no-recurse-submodules", *local, *shallow, "origin", *args)

    async def _is_remote(self) -> bool:
        url = await self.answer("config", "remote.origin.url")
        return not (url.startswith(("/", "./", "../", "file://")))


async def _clone(git: _Git, clone: Clone) -> StepResult:
    clone.path.mkdir(parents=True, exist_ok=True)
    if not await git("init", "--quiet") or not await _set_origin(git, clone.repo):
        return StepResult(1, f"git cannot make a repository in {clone.path.name}")
    commit = await _fetch_wanted(git, clone)
    if not commit:
        wanted = clone.commit or clone.branch or "HEAD"
        return StepResult(1, f"git found no {wanted} in the repository, or could not fetch it; the log says why")
    if not await git("checkout", "--force", "--detach", commit):
        return StepResult(1, f"git cannot check out {commit}")
    shallow = (f"--depth={clone.depth}",) if clone.depth else ()
    if clone.submodules and not await git("submodule", "update", "--init", "--recursive", *shallow):
        return StepResult(1, "git cannot fetch the submodules; the log says why")
    return await _where(git)


async def _set_origin(git: _Git, repo: str) -> bool:
    if await git.answer("config", "remote.origin.url"):
        return await git("remote", "set-url", "origin", repo)
    return await git("remote", "add", "origin", repo)


async def _fetch_wanted(git: _Git, clone: Clone) -> str:
    """Fetch as little as will do and return the full id of the wanted commit, or an empty text."""
    if not clone.commit:
        fetched = await git.fetch(clone.branch or "HEAD", depth=clone.depth)
        return await git.answer("rev-parse", "FETCH_HEAD^{commit}") if fetched else ""
    # A server may refuse to serve a commit by its id, and a short id cannot be asked for: then everything is fetched.
    asked = _FULL_COMMIT.fullmatch(clone.commit) is not None and await git.fetch(clone.commit, depth=clone.depth)
    if not asked and not await git.fetch(*_EVERYTHING):
        return ""
    return await git.answer("rev-parse", "--verify", "--end-of-options", f"{clone.commit}^{{commit}}")


async def _checkout(git: _Git, checkout: Checkout) -> StepResult:
    commit = await _resolve(git, checkout.ref)
    if not commit and await git.fetch(checkout.ref):
        commit = await git.answer("rev-parse", "FETCH_HEAD^{commit}")
    if not commit:
        return StepResult(1, f"git knows no {checkout.ref}, here or at the origin")
    if not await git("checkout", "--force", "--detach", commit):
        return StepResult(1, f"git cannot check out {checkout.ref}")
    return await _where(git)


async def _resolve(git: _Git, ref: str) -> str:
    for name in (ref, f"origin/{ref}"):
        if commit := await git.answer("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"):
            return commit
    return ""


async def _where(git: _Git) -> StepResult:
    commit = await git.answer("rev-parse", "HEAD")
    return StepResult(0, metrics={"git.commit": commit})


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    return {**_NO_QUESTIONS, "GIT_SSH_COMMAND": env.get("GIT_SSH_COMMAND", _BATCH_SSH)}
