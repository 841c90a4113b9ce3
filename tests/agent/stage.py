"""A stage for plugins without an agent around them, and a repository for them to clone."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from arcentra_agent.plugins import PLUGINS
from arcentra_agent.plugins.base import Args, StepContext, StepResult
from arcentra_agent.process import Launcher


class Stage:
    """A workspace and an open log file to run plugins in."""

    def __init__(self, root: Path, env: Mapping[str, str] | None = None) -> None:
        self.workspace = root / "workspace"
        self.scratch = root / "scratch"
        self.workspace.mkdir()
        self.scratch.mkdir()
        self.log = root / "log"
        self.env = {"PATH": os.environ["PATH"], "HOME": str(root), "GIT_CONFIG_NOSYSTEM": "1", **(env or {})}

    async def run(self, uses: str, args: Args, action: str = "") -> StepResult:
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            context = StepContext(self.workspace, self.scratch, self.env, output, Launcher(kill_grace=60))
            return await PLUGINS[uses].run(action, args, context)
        finally:
            os.close(output)


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

    def add_submodule(self, url: str, commit: str, path: str) -> None:
        """Commit a submodule as a file and a link: nothing is fetched for it here."""
        (self.path / ".gitmodules").write_text(f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n')
        self._git("add", ".gitmodules")
        self._git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
        self._git("commit", "--quiet", "-m", f"add {path}")

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
