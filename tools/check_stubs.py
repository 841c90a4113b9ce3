"""Generate the stubs afresh and compare them with those in the tree. Exits 1 and names each file that differs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tools.tree import GENERATED, ROOT


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def differences(committed: Path, generated: Path) -> Iterator[str]:
    before, after = contents(committed), contents(generated)
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield f"{name}: not generated from proto/ any more"
        elif name not in before:
            yield f"{name}: missing"
        elif before[name] != after[name]:
            yield f"{name}: differs"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        # A process of its own: the compiler ends its caller's with exit() on a fault.
        subprocess.run([sys.executable, str(ROOT / "tools" / "gen_proto.py"), "--out", scratch], check=True)
        found = list(differences(ROOT / GENERATED, Path(scratch, Path(GENERATED).name)))
    print(*found, sep="\n")
    if found:
        sys.exit("the stubs do not match proto/: run `make proto`")


if __name__ == "__main__":
    main()
