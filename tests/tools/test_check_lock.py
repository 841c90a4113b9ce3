from __future__ import annotations

from tests.tools.conftest import Plant
from tools.check_lock import faults

PYPROJECT = """
[project]
dependencies = ["grpcio>=1.85,<2", "Back.Ports>=1; python_version < '3.14'"]
optional-dependencies = {fast = ["uvloop>=0.23"]}

[dependency-groups]
dev = ["ruff>=0.17"]
"""


def test_a_lock_in_step_passes(plant: Plant) -> None:
    lock = (
        "back-ports==1.2 ; python_full_version < '3.14' \\\n    --hash=sha256:00\n"
        "grpcio==1.85.1 \\\n    --hash=sha256:00\nruff==0.17.6 \\\n    --hash=sha256:00\nuvloop==0.23.0\n"
    )
    assert list(faults(plant("pyproject.toml", PYPROJECT), plant("requirements-dev.lock", lock))) == []


def test_what_is_missing_or_out_of_range_is_named(plant: Plant) -> None:
    lock = "back-ports==1.2\ngrpcio==1.80.0 \\\n    --hash=sha256:00\nruff==0.17.6\n"
    assert list(faults(plant("pyproject.toml", PYPROJECT), plant("requirements-dev.lock", lock))) == [
        "requirements-dev.lock: grpcio is pinned to 1.80.0, not <2,>=1.85: run `make lock`",
        "requirements-dev.lock: uvloop is not pinned: run `make lock`",
    ]
