"""Trees that are hard to throw away: deep ones, read-only ones, those of another file system."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcentra_agent.trash import Trash
from arcentra_agent.workspaces import remove_tree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

_NOBODY = 65534
_MEMORY = Path("/dev/shm")  # noqa: S108 - a file system of its own
_THROW = """
import os, sys
from pathlib import Path
from arcentra_agent.trash import Trash
if os.geteuid() == 0:
    os.setuid(int(sys.argv[1]))
for name in ("trash", "workspace"):
    Path(name).mkdir()
Path("workspace/file").touch()
Path("workspace").chmod(0o555)
Trash(Path("trash")).throw(Path("workspace"))
print(*Path(".").glob("*/*/*"))
"""


def _make_deep(root: Path, levels: int, name: str = "a") -> None:
    """Make directories inside each other, by descriptors: their path is longer than one may be."""
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.close(here)
        here = below
    os.close(here)


def _wait_until_empty(*directories: Path) -> None:
    while any(list(directory.iterdir()) for directory in directories):
        os.sched_yield()


@pytest.mark.parametrize("name", ["a", "n" * 200])
def test_a_tree_of_any_depth_is_removed(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    _make_deep(tmp_path / "deep", 1_200, name)
    (tmp_path / "deep" / name / "link").symlink_to(outside)
    (tmp_path / "deep" / "link").symlink_to(outside)
    remove_tree(tmp_path / "deep")
    assert [entry.name for entry in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").exists()


def test_what_cannot_be_deleted_stays_and_the_rest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "trash"
    trash = Trash(root)
    # There is nothing to look through yet.
    trash.begin()
    root.mkdir()
    bad = tmp_path / "bad"
    bad.mkdir()

    def rmdir(path: Path) -> None:
        if path != bad and bad_id == path.stat().st_ino:
            raise RuntimeError("a fault")
        remove(path)

    remove, bad_id = Path.rmdir, bad.stat().st_ino
    monkeypatch.setattr(Path, "rmdir", rmdir)
    trash.throw(bad)
    for name in ("one", "two"):
        (tmp_path / name / "file").parent.mkdir()
        trash.throw(tmp_path / name)
    while len(list(root.iterdir())) > 1:
        os.sched_yield()
    assert [entry.stat().st_ino for entry in root.iterdir()] == [bad_id]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that another user can reach, unlike those of the tests."""
    with tempfile.TemporaryDirectory() as root:
        yield Path(root)


def test_an_ordinary_user_throws_a_read_only_directory_away(folder: Path) -> None:
    folder.chmod(0o777)
    argv = (sys.executable, "-c", _THROW, str(_NOBODY))
    thrown = subprocess.run(argv, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    assert len(thrown) == 1
    assert thrown[0].startswith("trash/")


def test_a_tree_of_another_file_system_is_deleted_where_it_is(tmp_path: Path) -> None:
    if not _MEMORY.is_dir() or _MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    root = tmp_path / "trash"
    root.mkdir()
    with tempfile.TemporaryDirectory(dir=_MEMORY) as there:
        workspace = Path(there, "workspace")
        (workspace / "cache").mkdir(parents=True)
        trash = Trash(root)
        trash.throw(workspace)
        (left,) = Path(there).iterdir()
        # No workspace has such a name.
        assert left.name.startswith(".")
        trash.begin()
        _wait_until_empty(Path(there), root)
