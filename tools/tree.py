"""The files of the tree as the checks see them: everything that is or would be committed."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATED = "src/arcentra_api/"


def git(*args: str, root: Path = ROOT) -> str:
    """Return what `git ARGS` prints; CalledProcessError when it fails.

    The tree is trusted whoever owns it: CI often checks out as one user and runs as another.
    """
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def files(root: Path = ROOT, *suffixes: str) -> list[Path]:
    """Return the tracked and the new, not ignored files under `root`, sorted; only those ending in `suffixes` if given."""
    listed = git("ls-files", "--cached", "--others", "--exclude-standard", "-z", root=root).split("\0")
    paths = {root / name for name in listed if name and name.endswith(suffixes or "")}
    return sorted(path for path in paths if path.is_file())


def is_generated(path: Path, root: Path = ROOT) -> bool:
    return path.relative_to(root).as_posix().startswith(GENERATED)
