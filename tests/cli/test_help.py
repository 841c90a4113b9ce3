"""The examples in the help texts are commands that the command line takes."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer import Context
from typer.main import get_command

from arcentra_cli.main import app

ROOT = get_command(app)
NEW = {
    "approval list",
    "approval show",
    "approval approve",
    "approval reject",
    "concurrency list",
    "deployment list",
    "run retry",
}


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command below a group, with the words that name it."""
    for name, command in getattr(group, "commands", {}).items():
        yield f"{path} {name}".strip(), command
        yield from commands(command, f"{path} {name}".strip())


EXAMPLES = {
    path: found[1] for path, command in commands(ROOT) if (found := re.search(r"Example: (.+)", command.help or ""))
}


def test_commands_with_options_of_their_own_have_an_example() -> None:
    assert EXAMPLES.keys() >= NEW


@pytest.mark.parametrize("path", sorted(EXAMPLES))
def test_an_example_is_taken(path: str) -> None:
    program, *words = shlex.split(EXAMPLES[path])
    assert program == "arcentra"
    assert " ".join(words).startswith(path)
    command = dict(commands(ROOT))[path]
    command.make_context(path, words[len(path.split()) :], parent=Context(ROOT))
