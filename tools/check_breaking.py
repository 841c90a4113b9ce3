"""Compare `proto/` with main by `buf breaking`; on main itself, with the commit before.

Exits as buf does (100: something breaks). Prints one `skipped:` line where there is nothing to compare with: a first
commit, a clone without the history, a commit without `proto/`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tools.tree import ROOT, git


def commit(name: str, root: Path) -> str | None:
    try:
        return git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", root=root).strip()
    except subprocess.CalledProcessError:
        return None


def base(root: Path) -> str | None:
    """Return the commit to compare with, None when the clone has none."""
    head = commit("HEAD", root)
    main = commit("main", root) or commit("origin/main", root)
    return commit("HEAD~1", root) if main in {None, head} else main


def extract(revision: str, root: Path, target: Path) -> int:
    """Write the contract of `revision` and buf's configuration to `target`; return the number of proto files."""
    names = git("ls-tree", "-r", "--name-only", revision, "buf.yaml", "proto", root=root).splitlines()
    for name in names:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(git("show", f"{revision}:{name}", root=root), encoding="utf-8")
    return sum(name.endswith(".proto") for name in names)


def main(root: Path) -> int:
    revision = base(root)
    if revision is None:
        print("skipped: no earlier commit in this clone")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        if not extract(revision, root, Path(scratch)):
            print(f"skipped: {revision[:12]} has no proto/")
            return 0
        print(f"against {revision[:12]}", flush=True)
        buf = Path(sys.executable).parent / "buf"
        return subprocess.run([buf, "breaking", root, "--against", scratch], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(ROOT))
