"""The file with the keys of secrets: made once, readable by its owner only, refused when it is not what it should be."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arcentra_server import installation
from arcentra_server.config import Config, load
from arcentra_server.domain.secret_box import make_key_line
from arcentra_server.installation import SECRETS_KEY_FILE, InstallationError, load_key_ring


def config(tmp_path: Path, key_file: Path | None = None) -> Config:
    return load(None, {"data_dir": tmp_path, "secrets": {"key_file": key_file}})


def test_the_first_start_makes_a_key_and_the_next_ones_use_it(tmp_path: Path) -> None:
    first = load_key_ring(config(tmp_path))
    path = tmp_path / SECRETS_KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().split()[0] == first.key_ids[0]
    assert load_key_ring(config(tmp_path)).key_ids == first.key_ids
    assert [file.name for file in tmp_path.iterdir()] == [SECRETS_KEY_FILE]


def test_servers_that_start_together_use_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        rings = list(pool.map(lambda _: load_key_ring(config(tmp_path)), range(8)))
    assert len({ring.key_ids for ring in rings}) == 1


def test_a_file_that_was_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / SECRETS_KEY_FILE
    path.write_text("made before")
    installation._write_once(path, make_key_line(os.urandom))
    assert path.read_text() == "made before"
    assert [file.name for file in tmp_path.iterdir()] == [SECRETS_KEY_FILE]


def test_a_named_file_is_used_with_all_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "shared.key"
    lines = [make_key_line(os.urandom), make_key_line(os.urandom)]
    path.write_text("".join(lines))
    path.chmod(0o400)
    assert load_key_ring(config(tmp_path, path)).key_ids == tuple(line.split()[0] for line in lines)
    assert not (tmp_path / SECRETS_KEY_FILE).exists()


def test_a_named_file_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(InstallationError, match=r"cannot read .*No such file.*secrets.key_file"):
        load_key_ring(config(tmp_path, tmp_path / "nowhere.key"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_file_for_others_too_is_refused(tmp_path: Path, mode: int) -> None:
    load_key_ring(config(tmp_path))
    (tmp_path / SECRETS_KEY_FILE).chmod(mode)
    with pytest.raises(InstallationError, match="chmod 600"):
        load_key_ring(config(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    load_key_ring(config(tmp_path))
    os.chown(tmp_path / SECRETS_KEY_FILE, 65534, -1)
    with pytest.raises(InstallationError, match="another user"):
        load_key_ring(config(tmp_path))


@pytest.mark.parametrize("content", [b"", b"k1 c2hvcnQ=\n", b"\xff\xfe\n"])
def test_a_file_without_keys_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / SECRETS_KEY_FILE
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InstallationError, match="does not hold the keys") as refused:
        load_key_ring(config(tmp_path))
    assert "c2hvcnQ" not in str(refused.value)
