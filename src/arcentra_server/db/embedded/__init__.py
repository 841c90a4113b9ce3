"""A PostgreSQL of our own in a data directory, for installations that bring none.

It runs as root and as an ordinary user, one server a data directory, listens on a private Unix socket only, survives
`kill -9` of itself and ends with the process that started it. Every error derives from `EmbeddedPostgresError`.
"""

from arcentra_server.db.embedded.dsn import running_dsn
from arcentra_server.db.embedded.errors import (
    BinariesError,
    DataDirInUseError,
    DataDirUnusableError,
    EmbeddedPostgresError,
    LaunchError,
    NotRunningError,
    PreviousServerError,
    StartFailedError,
    VersionMismatchError,
)
from arcentra_server.db.embedded.server import EmbeddedPostgres

__all__ = [
    "BinariesError",
    "DataDirInUseError",
    "DataDirUnusableError",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "LaunchError",
    "NotRunningError",
    "PreviousServerError",
    "StartFailedError",
    "VersionMismatchError",
    "running_dsn",
]
