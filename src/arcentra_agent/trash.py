"""What is to be deleted: put aside at once, and deleted by a thread that nothing waits for.

A large tree takes minutes. Neither the start of an agent, whose leases run out meanwhile, nor its end is to take that long.
"""

import contextlib
import errno
import queue
import threading
import uuid
from pathlib import Path

import structlog

from arcentra_agent.workspaces import own, remove_tree

_log = structlog.get_logger("arcentra_agent")


class Trash:
    """A directory of condemned trees. What is in it when the agent ends is deleted by the next one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._condemned: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def throw(self, path: Path) -> None:
        """Move a file or tree here; a missing one is fine.

        One of another file system stays in its directory, under a name that begins with a dot, until it is deleted.

        Raises:
            OSError: when it cannot be moved.
        """
        with contextlib.suppress(FileNotFoundError):
            # A name of its own: what an agent before this one has left here may be there still.
            self._condemned.put(_moved(path, self._root / uuid.uuid4().hex))

    def begin(self) -> None:
        """Delete what is here and what comes, from now on; called again it changes nothing."""
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._empty, name="trash", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # There is room for a thread the next time.
            _log.warning("trash_not_emptied", error=str(error))
            return
        self._thread = thread

    def _empty(self) -> None:
        try:
            left = list(self._root.iterdir())
        except OSError as error:
            left = []
            _log.warning("trash_not_emptied", error=str(error))
        for entry in left:
            _remove(entry)
        while True:
            _remove(self._condemned.get())


def _moved(path: Path, condemned: Path) -> Path:
    try:
        return path.rename(condemned)
    except PermissionError:
        # Only a directory that may be written gets another parent.
        own(path)
        return path.rename(condemned)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return path.rename(path.with_name(f".{condemned.name}"))


def _remove(path: Path) -> None:
    try:
        remove_tree(path)
    except Exception as error:  # noqa: BLE001 - one tree is no reason to keep the others
        _log.error("tree_not_removed", path=str(path), error=repr(error))
