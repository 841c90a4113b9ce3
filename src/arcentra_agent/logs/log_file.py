"""The log of one step run as its agent sees it: a file that its host writes, and that grows until it says so."""

from pathlib import Path


class LogFile:
    """A growing file. It may not be there yet, which is an empty log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size: int | None = None

    @property
    def size(self) -> int:
        """How many bytes there are, or have to be when the log has ended."""
        if self._size is not None:
            return self._size
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def end(self, size: int) -> None:
        """Note that the log is as long as this and gets nothing more."""
        self._size = size
