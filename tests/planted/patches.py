"""The planted bugs: patches against `src`, each with two lines before the diff.

P2, P4: one sentence that says what is broken, and with it the promises that have to be found broken.
Scenario: the name of one of `scenarios.py`, in which it shows, and `(stuck)` if that then comes to no end
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.postgres import REPOSITORY

FOLDER = Path(__file__).parent
_HEADER = re.compile(r"(P\d+(?:, P\d+)*): (.+)\nScenario: (\w+)( \(stuck\))?\n")


class PatchFault(Exception):
    """A patch has no proper header, or does not apply; the text says which one and why."""


@dataclass(frozen=True, slots=True)
class PlantedBug:
    """One patch. `promises`: all of them are to be reported; `what`: the sentence; `stuck`: something never ends."""

    path: Path
    promises: frozenset[str]
    what: str
    scenario: str
    stuck: bool

    @classmethod
    def read(cls, path: Path) -> PlantedBug:
        """Read the header of a patch.

        Raises:
            PatchFault: it has none.
        """
        found = _HEADER.match(path.read_text())
        if found is None:
            raise PatchFault(f"{path.name} does not begin with the two lines that tests/planted/patches.py describes")
        return cls(path, frozenset(found[1].split(", ")), found[2], found[3], bool(found[4]))

    def plant(self, tree: Path) -> None:
        """Apply the patch to a copy of the tree.

        Raises:
            PatchFault: it does not apply: what it changes was changed since. Write it anew, by the sentence in its header.
        """
        # The copy is no repository, whatever it lies in: git is to look for none.
        env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        env["GIT_CEILING_DIRECTORIES"] = str(tree.parent)
        command = ("git", "apply", "--verbose", str(self.path))
        done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PatchFault(f"{self.path.name} no longer applies to src, write it anew: {self.what}\n{done.stderr}")


def planted_bugs() -> list[PlantedBug]:
    """Return all planted bugs, in the order of their numbers."""
    return [PlantedBug.read(path) for path in sorted(FOLDER.glob("*.patch"))]


def copy_of_the_tree(folder: Path) -> Path:
    """Copy what a server runs from into a new folder; return it. The packages are below `src`."""
    # With the cached byte code: what is not patched does not have to be compiled again.
    shutil.copytree(REPOSITORY / "src", folder / "src", ignore=shutil.ignore_patterns("*.pyc.*"))
    (folder / "migrations").symlink_to(REPOSITORY / "migrations")
    return folder
