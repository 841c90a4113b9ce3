"""The examples, with what their comments say of how they end.

# ends: FAILED                    the state in which its run ends
# jobs: a=SUCCESS "b (1)"=SKIPPED the states in which jobs of it end
# attempts: a=3                   how often a job was begun
# does: approve                   what somebody does at its gate, or to its run: approve, reject, stop
# runs: 2                         it is triggered so often at once; `first`: how the first of them ends
# trigger: NAME=value             a variable of the trigger
# secret: NAME=value              a secret that it needs
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_DIRECTIVE = re.compile(r"^# (\w+): (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Example:
    """One file and its directives."""

    path: Path
    directives: dict[str, str]

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def pairs(self, name: str) -> dict[str, str]:
        """Return a directive of the form `a=b "c d"=e`."""
        return dict(part.rsplit("=", 1) for part in shlex.split(self.directives.get(name, "")))

    def __str__(self) -> str:
        return self.path.stem


def examples() -> list[Example]:
    """Return the examples that say how they end, by name."""
    found = []
    for path in sorted(EXAMPLES.glob("*.yaml")):
        head = path.read_text(encoding="utf-8").split("\nname:")[0]
        directives = dict(_DIRECTIVE.findall(head))
        if "ends" in directives:
            found.append(Example(path, directives))
    return found
