"""What is to be deleted: put aside at once, and deleted by a thread that nothing waits for.

A large tree takes minutes. Neither the start of an agent, whose leases run out meanwhile, nor its end is to take that long.
"""

import queue
import threading
import uuid
from pathlib import Path

import structlog

from arcentra_agent.workspaces import remove_tree

_log = structlog.get_logger("arcentra_agent")


class Trash:
    """A directory of condemned trees. What is in it when the agent ends is deleted by the next one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._condemned: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def throw(self, path: Path) -> None:
        """Move a file or tree of the same file system here; a missing one is fine.

        Raises:
            OSError: when it cannot be moved.
        """
        # A name of its own: what an agent before this one has left here may be there still.
        condemned = self._root / uuid.uuid4().hex
        try:
            path.rename(condemned)
        except FileNotFoundError:
            return
        self._condemned.put(condemned)

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
        for entry in list(self._root.iterdir()):
            remove_tree(entry)
        while True:
            remove_tree(self._condemned.get())
