"""Exit codes of `arcentra`: what a script may rely on."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes, as `arcentra --help` documents them."""

    SUCCESS = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    PARTIAL = 4
    TIMEOUT = 5
    UNREACHABLE = 6
    INTERRUPTED = 130


_OF_RUN = {
    "SUCCESS": ExitCode.SUCCESS,
    "FAILED": ExitCode.FAILED,
    "CANCELLED": ExitCode.CANCELLED,
    "PARTIAL": ExitCode.PARTIAL,
    "TIMEOUT": ExitCode.TIMEOUT,
}

HELP = (
    "Exit codes: 0 done, or the followed run succeeded; 1 the run failed; 2 wrong usage, or the server refused the "
    "request, also because of the role of the credential; 3 the run was cancelled; 4 the run is partial (only tolerated failures); 5 the run timed out; "
    "6 the server cannot be reached, did not accept the credential, or failed; 130 interrupted."
)


def of_run(status: str) -> ExitCode:
    """Exit code of a followed run that ended with `status`, a status word such as `SUCCESS`."""
    return _OF_RUN.get(status, ExitCode.FAILED)
