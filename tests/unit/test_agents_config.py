"""The settings of agents."""

from __future__ import annotations

from pathlib import Path

import pytest

from arcentra_server.config import ConfigError, load


def _hours(folder: Path, text: str) -> float:
    file = folder / "server.toml"
    file.write_text(f"[agents]\n{text}\n")
    return load(file, {}).agents.token_hours


@pytest.mark.parametrize(("text", "hours"), [("", 24), ("token_hours = 0", 0), ("token_hours = 720", 720)])
def test_how_long_credentials_of_agents_are_good(tmp_path: Path, text: str, hours: float) -> None:
    assert _hours(tmp_path, text) == hours


@pytest.mark.parametrize("text", ["token_hours = 0.5", "token_hours = -1"])
def test_credentials_that_end_before_they_are_rotated_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"agents\.token_hours"):
        _hours(tmp_path, text)
