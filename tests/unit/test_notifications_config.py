"""The settings of notifications."""

from __future__ import annotations

from pathlib import Path

import pytest

from arcentra_server.config import ConfigError, load


def _file(folder: Path, text: str) -> Path:
    file = folder / "server.toml"
    file.write_text(f"[notifications]\n{text}\n")
    return file


def test_nothing_private_is_open_unless_it_is_said(tmp_path: Path) -> None:
    told = load(_file(tmp_path, ""), {}).notifications
    assert (told.allow, told.allow_http, told.workers, told.run_url) == ((), False, 2, "")


def test_everything_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCENTRA_NOTIFICATIONS__ALLOW", '["10.0.0.0/8", "hooks.internal:8443"]')
    text = 'allow_http = true\nworkers = 4\nrun_url = "https://ci.example.com/{run_id}"\nallow = ["::1"]'
    told = load(_file(tmp_path, text), {}).notifications
    assert told.allow == ("10.0.0.0/8", "hooks.internal:8443")
    assert (told.allow_http, told.workers, told.run_url) == (True, 4, "https://ci.example.com/{run_id}")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('allow = ["10.0.0.1/8"]', r"notifications.allow: '10.0.0.1/8' is neither a network \(10.0.0.0/8\), nor"),
        ('allow = ["hooks.internal"]', "notifications.allow: 'hooks.internal' is neither a network"),
        ('run_url = "https://ci.example.com/"', r"notifications.run_url: write an address with \{run_id\} in it"),
        ("workers = 0", "notifications.workers: "),
        ("retries = 3", "notifications.retries: no such setting"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        load(_file(tmp_path, text), {})
