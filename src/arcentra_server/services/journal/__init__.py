"""The journal, read once per process and told to everybody who watches: first what is, then what changes."""

from arcentra_server.services.journal.streams import StatusStreams, Told
from arcentra_server.services.journal.tail import Journal

__all__ = ["Journal", "StatusStreams", "Told"]
