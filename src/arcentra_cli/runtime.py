"""Runs the asynchronous action of a command."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from arcentra_cli.errors import CliError
from arcentra_cli.exit_codes import ExitCode


def run(action: Coroutine[Any, Any, ExitCode | None]) -> None:
    """Run an action to its end; a code other than 0 ends the program with it.

    Raises:
        CliError: the action failed, or Ctrl-C ended it.
        SystemExit: the action answered an exit code.
    """
    try:
        code = asyncio.run(action)
    except KeyboardInterrupt:
        raise CliError("interrupted", ExitCode.INTERRUPTED, prefix="") from None
    if code:
        raise SystemExit(int(code))
