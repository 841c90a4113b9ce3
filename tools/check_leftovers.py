"""Find what must not be committed: unfinished code, a developer's paths, addresses of package registries.

Exits 1 and names each line. The patterns are written so that they do not find themselves.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.tree import ROOT, files, is_generated


@dataclass(frozen=True)
class Rule:
    """A pattern and the files that it is looked for in."""

    what: str
    pattern: re.Pattern[str]
    where: re.Pattern[str] = re.compile("")


RULES = (
    Rule("unfinished", re.compile(r"\b(?:TO[D]O|FIX[M]E|XX[X])\b")),
    Rule("not implemented", re.compile(r"\bNotImplemented[E]rror\b"), re.compile(r"^src/")),
    # The server must not answer it; clients may have to understand it.
    Rule("not implemented", re.compile(r"\bStatusCode\.UN[I]MPLEMENTED\b"), re.compile(r"^src/arcentra_server/")),
    Rule("a path of one machine", re.compile(r"(?<![\w.}/-])/(?:home|Users|root|work)/\w")),
    Rule(
        "an address in a lock file",
        re.compile(r"\w+://|^\s*--?(?:index-url|extra-index-url|find-links|i|f)\b"),
        re.compile(r"\.lock$"),
    ),
    Rule("a package registry", re.compile(r"\bpypi[.]org|pythonhosted[.]org|registry[.]npmjs|crates[.]io")),
)
FORBIDDEN_NAMES = {"uv.lock", "pylock.toml"}


def faults(root: Path) -> Iterator[str]:
    for path in files(root):
        name = path.relative_to(root).as_posix()
        if path.name in FORBIDDEN_NAMES:
            yield f"{name}: records registry addresses; the project keeps hashed requirement files"
        if is_generated(path, root):
            continue
        rules = [rule for rule in RULES if rule.where.search(name)]
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1):
            for rule in rules:
                if rule.pattern.search(line):
                    yield f"{name}:{number}: {rule.what}: {line.strip()[:100]}"


if __name__ == "__main__":
    found = list(faults(ROOT))
    print(*found, sep="\n")
    sys.exit(bool(found))
