from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools.conftest import Plant
from tools.check_breaking import base, main

Commit = Callable[[], str]
BUF = "version: v2\nmodules:\n  - path: proto\nbreaking:\n  use: [FILE]\n"
PROTO = 'syntax = "proto3";\n\npackage a.v1;\n\nmessage M {\n  string name = 1;\n}\n'
BREAKS = 100


@pytest.fixture
def contract(plant: Plant) -> None:
    plant("buf.yaml", BUF)
    plant("proto/a/v1/a.proto", PROTO)


def git(tree: Path, *args: str) -> None:
    subprocess.run(["git", "-C", str(tree), *args], check=True, capture_output=True)


@pytest.mark.usefixtures("contract")
def test_a_renumbered_field_breaks(tree: Path, plant: Plant, commit: Commit, capfd: pytest.CaptureFixture[str]) -> None:
    first = commit()
    plant("proto/a/v1/a.proto", PROTO.replace("= 1", "= 2"))
    commit()
    assert base(tree) == first
    assert main(tree) == BREAKS
    assert 'a.proto:5:1:Previously present field "1"' in capfd.readouterr().out


@pytest.mark.usefixtures("contract")
def test_an_added_field_does_not_break(tree: Path, plant: Plant, commit: Commit) -> None:
    commit()
    plant("proto/a/v1/a.proto", PROTO.replace("}", "  string more = 100;\n}"))
    commit()
    assert main(tree) == 0


@pytest.mark.usefixtures("contract")
def test_a_branch_is_compared_with_main(tree: Path, commit: Commit) -> None:
    of_main = commit()
    git(tree, "switch", "--quiet", "--create", "feature")
    commit()
    commit()
    assert base(tree) == of_main


@pytest.mark.usefixtures("contract")
def test_a_first_commit_is_skipped(tree: Path, commit: Commit, capsys: pytest.CaptureFixture[str]) -> None:
    commit()
    assert base(tree) is None
    assert main(tree) == 0
    assert capsys.readouterr().out == "skipped: no earlier commit in this clone\n"


def test_a_commit_without_a_contract_is_skipped(
    tree: Path, plant: Plant, commit: Commit, capsys: pytest.CaptureFixture[str]
) -> None:
    plant("README.md", "text\n")
    first = commit()
    plant("proto/a/v1/a.proto", PROTO)
    commit()
    assert main(tree) == 0
    assert capsys.readouterr().out == f"skipped: {first[:12]} has no proto/\n"
