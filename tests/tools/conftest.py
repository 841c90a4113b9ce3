from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Plant = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An empty git repository of its own, with no configuration but its own."""
    root = tmp_path / "tree"
    root.mkdir()
    for command in (
        ["init", "--quiet", "--initial-branch", "main"],
        ["config", "user.name", "Test"],
        ["config", "user.email", "test@example.invalid"],
        ["config", "commit.gpgsign", "false"],
    ):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    return root


@pytest.fixture
def plant(tree: Path) -> Plant:
    """Write a file into the repository, by its name there."""

    def write(name: str, text: str) -> Path:
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def commit(tree: Path) -> Callable[[], str]:
    """Commit all that is in the repository and return the commit's id."""

    def run() -> str:
        subprocess.run(["git", "-C", str(tree), "add", "--all"], check=True)
        subprocess.run(["git", "-C", str(tree), "commit", "--quiet", "--allow-empty", "-m", "change"], check=True)
        shown = subprocess.run(
            ["git", "-C", str(tree), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
        )
        return shown.stdout.strip()

    return run
