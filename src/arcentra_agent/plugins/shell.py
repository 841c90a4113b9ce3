"""`uses: shell`: the action `script` runs a text by a shell, `command` runs one command line or argument list."""

import shlex
import shutil
from dataclasses import dataclass
from typing import ClassVar

from arcentra_agent.plugins import arguments
from arcentra_agent.plugins.arguments import ArgumentError
from arcentra_agent.plugins.base import Args, StepContext, StepResult

_ACTIONS = ("script", "command")
# The kernel's limit for one argument (MAX_ARG_STRLEN); a script goes through a file and has none.
_LONGEST_ARGUMENT = 128 * 1024


@dataclass(frozen=True, slots=True)
class Script:
    """A text and the interpreter that gets it; no interpreter means the best shell there is."""

    text: str
    interpreter: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """A program and its arguments."""

    argv: tuple[str, ...]


def parse(action: str, args: Args) -> Script | Command:
    """Read the arguments; an empty action is the one whose argument is present.

    Raises:
        ArgumentError: see there.
    """
    if not action:
        present = [name for name in _ACTIONS if name in args]
        if len(present) != 1:
            raise ArgumentError("args: expected exactly one of script and command")
        action = present[0]
    if action == "script":
        arguments.check_known(args, ("script", "shell"))
        return Script(arguments.required_text(args, "script"), _interpreter(args))
    if action == "command":
        arguments.check_known(args, ("command",))
        return Command(_command(args))
    raise ArgumentError(f"action: shell has script and command, got {action[:64]!r}")


class ShellPlugin:
    """Runs scripts and commands in the workspace."""

    secret_args: ClassVar[frozenset[str]] = frozenset()

    async def run(self, action: str, args: Args, context: StepContext) -> StepResult:
        match parse(action, args):
            case Script(text=text, interpreter=interpreter):
                # Outside the workspace, so that the script's own `git status` stays clean.
                file = context.scratch / "script"
                file.write_text(text, "utf-8")
                argv = (*(interpreter or default_interpreter(context.env.get("PATH"))), str(file))
            case Command(argv=argv):
                pass
        return result_of(await context.run(argv))


def default_interpreter(path: str | None) -> tuple[str, ...]:
    """Return bash where it is installed, else sh; both stop at the first failing command."""
    return ("bash", "-e") if shutil.which("bash", path=path) else ("sh", "-e")


def result_of(exit_code: int) -> StepResult:
    """Say in a sentence how a program ended."""
    if exit_code == 0:
        return StepResult(0)
    if exit_code > 128:
        return StepResult(exit_code, f"the program was ended by signal {exit_code - 128}")
    return StepResult(exit_code, f"the program ended with exit code {exit_code}")


def _interpreter(args: Args) -> tuple[str, ...]:
    shell = arguments.text(args, "shell")
    try:
        return tuple(shlex.split(shell))
    except ValueError as error:
        raise ArgumentError(f"args.shell: not a command line: {error}") from error


def _command(args: Args) -> tuple[str, ...]:
    value = args.get("command")
    if isinstance(value, list):
        if not value or not all(isinstance(item, str) and "\0" not in item for item in value) or not value[0]:
            raise ArgumentError("args.command: expected a list of texts, the program first")
        argv = tuple(str(item) for item in value)
    else:
        argv = ("sh", "-c", arguments.required_text(args, "command"))
    if any(len(item.encode()) >= _LONGEST_ARGUMENT for item in argv):
        raise ArgumentError("args.command: longer than 128 KiB; use the action script")
    return argv
