"""Where things stand in a data directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

USER = "arcentra"
DATABASE = "arcentra"
PORT = 5432  # only names the socket file; nothing listens on TCP


@dataclass(frozen=True)
class Layout:
    """Paths below one data directory; `root` is absolute, PostgreSQL takes no other."""

    root: Path

    @classmethod
    def of(cls, data_dir: Path) -> Self:
        return cls(data_dir.expanduser().resolve())

    @property
    def cluster(self) -> Path:
        return self.root / "pg"

    @property
    def unfinished_cluster(self) -> Path:
        return self.root / "pg.new"

    @property
    def password_file(self) -> Path:
        return self.root / "pg.password"

    @property
    def lock_file(self) -> Path:
        return self.root / "pg.lock"

    @property
    def log_file(self) -> Path:
        return self.root / "pg.log"

    @property
    def socket_dir(self) -> Path:
        return self.root / "pg.run"
