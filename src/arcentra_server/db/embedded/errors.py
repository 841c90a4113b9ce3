"""What can go wrong with the embedded PostgreSQL. Each message says what, where, and what to do about it."""

from pathlib import Path


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot do what was asked; the text is meant for the operator."""


class BinariesError(EmbeddedPostgresError):
    """No usable PostgreSQL programs were found."""


class LaunchError(EmbeddedPostgresError):
    """This machine or this user cannot run the server: a tool is missing, or a path cannot be reached."""


class DataDirUnusableError(EmbeddedPostgresError):
    """The data directory cannot be read or written, or it has lost a part."""


class VersionMismatchError(EmbeddedPostgresError):
    """The cluster was made by another major version of PostgreSQL than the programs at hand."""


class StartFailedError(EmbeddedPostgresError):
    """The server ended, or did not become ready in time; the text has the end of its log."""


class NotRunningError(EmbeddedPostgresError):
    """Something was asked of a server that is not started."""


class DataDirInUseError(EmbeddedPostgresError):
    """Another process runs a server on this data directory.

    Attributes:
        data_dir: the directory.
        pid: the process that holds it, if it has written its id already.
    """

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        holder = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"the data directory {data_dir} is in use by {holder}: "
            "stop that server first, or choose another data directory"
        )
        self.data_dir = data_dir
        self.pid = pid


class PreviousServerError(EmbeddedPostgresError):
    """A PostgreSQL that an earlier process left on this data directory did not end in time.

    Attributes:
        pids: its processes that still run.
    """

    def __init__(self, cluster: Path, pids: list[int], waited_seconds: float) -> None:
        listed = " ".join(map(str, pids))
        super().__init__(
            f"PostgreSQL processes of an earlier start still run on {cluster} after {waited_seconds:g} s: {listed}. "
            f"End them and start again: kill -INT {listed}"
        )
        self.pids = pids
