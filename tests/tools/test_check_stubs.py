from __future__ import annotations

from pathlib import Path

from tests.tools.conftest import Plant
from tools.check_stubs import differences


def test_each_difference_is_named(tmp_path: Path, plant: Plant) -> None:
    for name, text in {"same.py": "1", "changed.py": "1", "stale.py": "1"}.items():
        plant(f"committed/v1/{name}", text)
    plant("committed/__pycache__/x.pyc", "")
    for name, text in {"same.py": "1", "changed.py": "2", "new.py": "1"}.items():
        plant(f"generated/v1/{name}", text)
    tree = tmp_path / "tree"
    assert list(differences(tree / "committed", tree / "generated")) == [
        "v1/changed.py: differs",
        "v1/new.py: missing",
        "v1/stale.py: not generated from proto/ any more",
    ]
