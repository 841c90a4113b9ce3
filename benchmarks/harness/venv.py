"""An environment for programs of other people, apart from the server's."""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.processes import ProcessFailedError, output_of
from benchmarks.harness.scenario import SkippedError

# Whoever has no registry learns it soon.
PATIENCE = ("--retries", "1", "--timeout", "15")


class Venv:
    """Packages in a temporary directory: installed when they are first asked for, removed when this process ends."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._python: Path | None = None

    async def python(self, work_dir: Path) -> Path:
        """Answers the interpreter of the environment, which is made below `work_dir`.

        Raises:
            SkippedError: the packages cannot be installed.
        """
        if self._python is None:
            self._python = await self._install(work_dir)
        return self._python

    async def _install(self, work_dir: Path) -> Path:
        self._home = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="bench-venv-", dir=work_dir)
        home = Path(self._home.name)
        python, log = home / "bin" / "python", home / "install.log"
        try:
            await output_of([sys.executable, "-m", "venv", str(home)], log)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PATIENCE]
            await output_of([*pip, *self._packages], log)
        except ProcessFailedError as error:
            names = ", ".join(self._packages)
            raise SkippedError(f"{names} cannot be installed; is the package registry reachable?\n{error}") from error
        return python
