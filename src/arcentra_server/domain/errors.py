"""Every error that a caller can meet, in one tree.

ArcentraError
├── ValidationError      a request or document is wrong; names each fault with its field path
├── NotFound             no such object, or none that the caller may see
├── AlreadyExists        a name or key is taken
├── InvalidTransition    the object's state does not allow this
├── NotAdmitted          the agent waits for approval, or is disabled
├── LeaseLost            the report is of a lease that ended
├── WriteConflict        another writer was first; the caller may repeat the call
├── Unauthenticated      no credential, or one that is not good
├── Forbidden            the credential does not allow this
│   └── NotLeased        the step run is not leased to this agent
├── LimitExceeded        a limit of size, rate or number
├── SecretUnreadable     a secret is stored, and cannot be opened with the keys that the server has
└── Unavailable          the server cannot do it now: it starts, stops, or has lost its database
    └── GivenUp          the database is there and did not do it: it took too long
        └── NoRoom       it has no room for it: on disk, in memory, for one more connection

`reason` is stable and travels to clients in `google.rpc.ErrorInfo`; `rpc/interceptors/errors.py` maps each class to a
gRPC status, and a test walks this tree so that none is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a request: where (a field path such as `jobs[0].name`), and what."""

    path: str
    message: str


class ArcentraError(Exception):
    """Base of all errors that are meant for a caller. Its text is shown to them."""

    reason = "ERROR"


class ValidationError(ArcentraError):
    """A request or document is wrong. All faults are named at once."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(
            "; ".join(f"{fault.path}: {fault.message}" if fault.path else fault.message for fault in faults)
        )

    @classmethod
    def at(cls, path: str, message: str) -> ValidationError:
        """Build the error of a single fault."""
        return cls([Fault(path, message)])


class NotFound(ArcentraError):
    """No such object, or none that the caller may see."""

    reason = "NOT_FOUND"


class AlreadyExists(ArcentraError):
    """A name or key is taken."""

    reason = "ALREADY_EXISTS"


class InvalidTransition(ArcentraError):
    """The object's state does not allow this."""

    reason = "INVALID_TRANSITION"


class NotAdmitted(ArcentraError):
    """The agent waits for approval, or is disabled: it gets no work."""

    reason = "NOT_ADMITTED"


class LeaseLost(ArcentraError):
    """The report is of a lease that ended: the agent must stop, not repeat."""

    reason = "LEASE_LOST"


class WriteConflict(ArcentraError):
    """Another writer was first; the caller may repeat the call."""

    reason = "WRITE_CONFLICT"


class Unauthenticated(ArcentraError):
    """No credential, or one that is not good."""

    reason = "UNAUTHENTICATED"


class Forbidden(ArcentraError):
    """The credential does not allow this."""

    reason = "FORBIDDEN"


class NotLeased(Forbidden):
    """The step run is not leased to this agent, or does not exist: the two are not told apart."""

    reason = "NOT_LEASED"


class LimitExceeded(ArcentraError):
    """A limit of size, rate or number."""

    reason = "LIMIT_EXCEEDED"


class SecretUnreadable(ArcentraError):
    """A secret is stored, and cannot be opened: its key is not among those that the server has, or it was changed."""

    reason = "SECRET_UNREADABLE"


class Unavailable(ArcentraError):
    """The server cannot do it now: it starts, stops, or has lost its database."""

    reason = "UNAVAILABLE"


class GivenUp(Unavailable):
    """The database is there and gave up what it was asked: it took too long, or see `NoRoom`."""


class NoRoom(GivenUp):
    """The database has no room for what it was asked, on disk, in memory or for a connection: others may meet the same."""
