"""Hold modules to 500 lines, functions to 80 and decision records to 50.

Exits 1 and names each place that is longer. Generated stubs and migrations, which are generated first and never changed
later, are not counted.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.tree import ROOT, files, is_generated

MODULE_LINES = 500
FUNCTION_LINES = 80
RECORD_LINES = 50


def long_parts(path: Path) -> Iterator[str]:
    """Yield one line for a Python module that is too long and for each of its functions that is."""
    source = path.read_text(encoding="utf-8")
    if (lines := source.count("\n")) > MODULE_LINES:
        yield f"{lines} lines, {MODULE_LINES} asks for a split"
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {lines} lines, {FUNCTION_LINES} is the limit"


def faults(root: Path) -> Iterator[str]:
    for path in files(root, ".py"):
        if not is_generated(path, root) and not path.is_relative_to(root / "migrations"):
            yield from (f"{path.relative_to(root)}: {fault}" for fault in long_parts(path))
    for path in files(root, ".md"):
        lines = path.read_text(encoding="utf-8").count("\n")
        if path.parent == root / "docs" / "adr" and lines > RECORD_LINES:
            yield f"{path.relative_to(root)}: {lines} lines, {RECORD_LINES} is the limit of a record"


if __name__ == "__main__":
    found = list(faults(ROOT))
    print(*found, sep="\n")
    sys.exit(bool(found))
