"""The layer rules of pyproject.toml catch a planted violation, in a small tree with the same names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.tree import ROOT

pytestmark = pytest.mark.slow

MODULES = (
    *(
        "arcentra_api",
        "arcentra_agent",
        "arcentra_cli",
        "arcentra_server",
        "arcentra_server.cli",
        "arcentra_server.app",
    ),
    *("arcentra_server.config", "arcentra_server.rpc", "arcentra_server.web", "arcentra_server.loops"),
    *("arcentra_server.services", "arcentra_server.services.runs", "arcentra_server.services.agents"),
    *("arcentra_server.db", "arcentra_server.scheduling", "arcentra_server.domain"),
    "arcentra_server.notify",
)


def lint(root: Path, planted: dict[str, str]) -> str:
    """Lay the packages with the `planted` text of some modules, and return what the linter says; empty if it passes."""
    for module in MODULES:
        folder = root.joinpath(*module.split("."))
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(planted.get(module, ""), encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo", "--config", ROOT / "pyproject.toml"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr if done.returncode else ""


def test_clean_layers_pass(tmp_path: Path) -> None:
    assert lint(tmp_path, {"arcentra_server.db": "import asyncpg\nfrom arcentra_server import domain\n"}) == ""


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("arcentra_server.domain", "from arcentra_server import db", "layers of the server"),
        ("arcentra_server.rpc", "from arcentra_server import web", "layers of the server"),
        ("arcentra_server.domain", "import asyncio", "domain and scheduling are pure"),
        ("arcentra_server.scheduling", "import time", "domain and scheduling are pure"),
        ("arcentra_server.services", "import grpc", "only rpc speaks protobuf and gRPC"),
        ("arcentra_server.loops", "import arcentra_api", "only rpc speaks protobuf and gRPC"),
        ("arcentra_server.web", "import sqlalchemy", "only db speaks SQL"),
        ("arcentra_server.services.runs", "from arcentra_server.services import agents", "no service imports another"),
        ("arcentra_server.services", "from arcentra_server import config", "only app and cli read the configuration"),
        (
            "arcentra_server.notify",
            "from arcentra_server import domain",
            "what sends notifications knows nothing of the server",
        ),
        (
            "arcentra_server.services",
            "import apprise",
            "only the process of notifications loads what sends them",
        ),
        ("arcentra_agent", "import arcentra_server", "agent and command line know the contract only"),
        ("arcentra_cli", "import arcentra_agent", "agent and command line do not know each other"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, module: str, line: str, contract: str) -> None:
    found = lint(tmp_path, {module: line + "\n"})
    assert f"{contract} BROKEN" in found, found
