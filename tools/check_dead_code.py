"""Find functions, classes, methods, properties, imports and constants that nothing uses, and code that nothing reaches.

The product, its tools and benchmarks must be used by each other: a function that only a test calls is dead. Tests and
their support are looked at in a second pass, where everything counts as a user. Locals and fields are left to ruff
and to the reader. Exits 1 and names each find.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from vulture.core import Item, Vulture

from tools.tree import GENERATED, ROOT, files
from tools.vulture_allow import ALLOWED

# Decorators that hand the function to a framework.
REGISTERED_BY = [
    "@command", "@*.command", "@*.callback", "@*.fixture", "@fixture", "@*.route", "@*.exception_handler",
    "@field_validator", "@model_validator", "@field_serializer", "@computed_field", "@compiles", "@*.listens_for",
    "@rule", "@initialize", "@invariant",
]  # fmt: skip
KINDS = {"function", "class", "method", "property", "import", "unreachable_code"}
PRODUCT = ("src/", "tools/", "benchmarks/")


def is_constant(item: Item) -> bool:
    """Tell a module-level name from a local or a field: enum members and model fields are read by their framework.

    A table is no constant: it registers itself with its metadata.
    """
    line = item.filename.read_text(encoding="utf-8").splitlines()[item.first_lineno - 1]
    return item.typ == "variable" and re.match(rf"{item.name}\b *[:=]", line) is not None and " = Table(" not in line


def unused(paths: list[Path]) -> list[Item]:
    # The generated stubs count as users: they call each method of a servicer by its name.
    vulture = Vulture(ignore_decorators=REGISTERED_BY)
    vulture.scavenge([str(path) for path in paths])
    found = vulture.get_unused_code(min_confidence=60)
    return [item for item in found if (item.typ in KINDS or is_constant(item)) and not is_protocol(item.name)]


def is_protocol(name: str) -> bool:
    """Tell names that the language itself looks up."""
    return name.startswith("__") and name.endswith("__")


def faults(root: Path, allowed: dict[str, str]) -> Iterator[str]:
    sources = [(path.relative_to(root).as_posix(), path) for path in files(root, ".py")]
    product = [path for name, path in sources if name.startswith(PRODUCT)]
    tests = [path for name, path in sources if name.startswith("tests/")]
    met: set[str] = set()
    for paths, reported in ((product, PRODUCT), (product + tests, ("tests/",))):
        for item in unused(paths):
            name = item.filename.relative_to(root).as_posix()
            if name.startswith(GENERATED) or not name.startswith(reported):
                continue
            if item.name in allowed:
                met.add(item.name)
            else:
                yield f"{name}:{item.first_lineno}: {item.message}"
    for name in sorted(allowed.keys() - met):
        yield f"tools/vulture_allow.py: {name} is allowed but not found any more"


if __name__ == "__main__":
    found = list(faults(ROOT, ALLOWED))
    print(*found, sep="\n")
    sys.exit(bool(found))
