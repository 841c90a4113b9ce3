"""Planted texts are put together from halves, so that the check does not find them in this file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.conftest import Plant
from tools.check_leftovers import faults


@pytest.mark.parametrize(
    ("name", "line", "what"),
    [
        ("src/a.py", "# TO" + "DO: later", "unfinished"),
        ("docs/a.md", "FIX" + "ME", "unfinished"),
        ("src/a.py", "raise NotImplemented" + "Error", "not implemented"),
        ("src/arcentra_server/a.py", "code = grpc.StatusCode.UN" + "IMPLEMENTED", "not implemented"),
        ("README.md", "cd /ho" + "me/someone/arcentra", "a path of one machine"),
        ("tools/a.sh", "cat '/ro" + "ot/x'", "a path of one machine"),
        ("requirements-dev.lock", "--index" + "-url https" + "://example.invalid/simple", "an address in a lock file"),
        ("requirements-dev.lock", "x @ https" + "://example.invalid/x.whl", "an address in a lock file"),
        ("Makefile", "pip install -i py" + "pi.org", "a package registry"),
    ],
)
def test_a_leftover_is_named(tree: Path, plant: Plant, name: str, line: str, what: str) -> None:
    plant(name, f"fine\n{line}\n")
    assert list(faults(tree)) == [f"{name}:2: {what}: {line}"]


def test_a_lock_with_addresses_is_refused_by_name(tree: Path, plant: Plant) -> None:
    plant("uv.lock", "version = 1\n")
    assert [fault.split(":")[0] for fault in faults(tree)] == ["uv.lock"]


def test_ordinary_text_passes(tree: Path, plant: Plant) -> None:
    plant("src/arcentra_api/x_pb2_grpc.py", "raise NotImplemented" + "Error\n")
    plant("src/arcentra_cli/a.py", "known = StatusCode.UN" + "IMPLEMENTED\n")
    plant("tools/a.sh", 'mktemp -d "$TMP/x.XXXXXX"; cd "$HOME/work/x"\n')
    plant("requirements-dev.lock", "x==1 \\\n    --hash=sha256:00\n")
    plant("logo.bin", "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"))
    assert list(faults(tree)) == []
