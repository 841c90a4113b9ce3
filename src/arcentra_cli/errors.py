"""The one exception a command ends with when it cannot do its work."""

import sys
from dataclasses import dataclass

from arcentra_cli.exit_codes import ExitCode
from arcentra_cli.terminal import visible


@dataclass(eq=False)
class CliError(Exception):
    """Ends the command: `message` and the indented `details` go to stderr, never with a traceback."""

    message: str
    exit_code: ExitCode = ExitCode.USAGE
    details: tuple[str, ...] = ()
    prefix: str = "error: "

    def __str__(self) -> str:
        lines = [f"{self.prefix}{self.message}", *(f"  {line}" for line in self.details)]
        return "\n".join(visible(line) for line in lines)

    def report(self) -> None:
        """Write the error to stderr."""
        sys.stdout.flush()
        print(self, file=sys.stderr, flush=True)
