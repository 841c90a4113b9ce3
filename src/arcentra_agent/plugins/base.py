"""What a plugin is, and what it gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from arcentra_agent.process import Launcher

Args = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class StepContext:
    """Where a step runs: its workspace, environment and output, and a directory of its own outside the workspace."""

    workspace: Path
    scratch: Path
    env: Mapping[str, str]
    output: int
    launcher: Launcher

    async def run(self, argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> int:
        """Run a program, its output going to the log; return its exit code. See `Launcher.run`."""
        return await self.launcher.run(
            argv, cwd=cwd or self.workspace, env={**self.env, **(env or {})}, output=self.output
        )

    async def capture(
        self, argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Run a program and return its exit code and its standard output; its errors go to the log."""
        return await self.launcher.capture(
            argv, cwd=cwd or self.workspace, env={**self.env, **(env or {})}, output=self.output
        )


@dataclass(frozen=True, slots=True)
class StepResult:
    """How an operation ended: 0 is success; `message` is a sentence for people when it is not."""

    exit_code: int
    message: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)


class Plugin(Protocol):
    """The operations of one `uses`."""

    async def run(self, action: str, args: Args, context: StepContext) -> StepResult:
        """Do the action.

        Raises:
            ArgumentError: before anything was started, when action or arguments are wrong.
            CannotStartError: when a program it needs is not there.
            OSError: when the system is out of something.
        """
        ...
