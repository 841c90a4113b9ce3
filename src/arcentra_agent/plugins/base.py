"""What a plugin is, and what it gets."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from arcentra_agent.process import Launcher

Args = Mapping[str, object]


class PluginMissingError(Exception):
    """This agent cannot do what the step run `uses`; the text is for its operator and the author of the pipeline."""


class ContainerError(Exception):
    """The runtime could not make a container; the text is for the operator and the author of the pipeline."""

    exit_code: ClassVar[int] = 125
    reason: ClassVar[str] = "internal"


class ImagePullError(ContainerError):
    """The image of a step run cannot be had."""

    reason: ClassVar[str] = "image_pull"


@dataclass(frozen=True, slots=True)
class StepContext:
    """Where a step runs: its workspace, environment and output, and a directory of its own outside the workspace."""

    workspace: Path
    scratch: Path
    # Not to be printed: there are secrets in it.
    env: Mapping[str, str] = field(repr=False)
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

    async def say(self, text: str) -> None:
        """Write a line of the agent's own into the log."""
        # A descriptor of its own: the step may be cancelled, and the other one closed, while this is being written.
        output = os.dup(self.output)
        await asyncio.to_thread(_write_and_close, output, f"{text}\n".encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class StepResult:
    """How an operation ended: 0 is success; `message` is a sentence for people when it is not."""

    exit_code: int
    message: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)


class Plugin(Protocol):
    """The operations of one `uses`. `secret_args` are the arguments whose values are masked."""

    secret_args: ClassVar[frozenset[str]]

    async def run(self, action: str, args: Args, context: StepContext) -> StepResult:
        """Do the action.

        Raises:
            ArgumentError: before anything was started, when action or arguments are wrong.
            CannotStartError: when a program of the step is not there.
            PluginMissingError: when the agent has not what the plugin needs.
            OSError: when the system is out of something.
        """
        ...


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a new file that nobody but its owner can read at any time."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)


def _write_and_close(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
