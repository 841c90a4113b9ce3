"""A podman with a storage of its own and one small image, made here: nothing is pulled."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

IMAGE = "localhost/arcentra-tests:1"
_INSTALL = Path(__file__).parents[2] / "tools" / "podman.sh"
_NEEDED = ("podman", "runc", "busybox")
_APPLETS = ("sh", "cat", "echo", "env", "id", "ls", "mkdir", "sleep", "touch", "true")


@dataclass(frozen=True, slots=True)
class Podman:
    """`command_line` starts it; `options` are what `run` needs in a place without limits to raise."""

    root: Path

    @property
    def command_line(self) -> str:
        places = f"--root={self.root / 'storage'} --runroot={self.root / 'run'} --tmpdir={self.root / 'tmp'}"
        return f"podman {places} --storage-driver=vfs --runtime=runc --cgroup-manager=cgroupfs --events-backend=none"

    @property
    def options(self) -> str:
        return "--ulimit=nofile=1024:1024 --ulimit=nproc=4096:4096 --network=none"

    def containers(self) -> list[str]:
        """Return the names of all containers, also of those that ended."""
        return self("ps", "--all", "--format={{.Names}}").split()

    def __call__(self, *args: str, data: bytes = b"") -> str:
        argv = (*self.command_line.split(), *args)
        done = subprocess.run(argv, input=data, capture_output=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


def make_podman(root: Path) -> Podman:
    """Make the storage and the image below `root`; install podman where that can be done, else skip the test."""
    if any(shutil.which(program) is None for program in _NEEDED):
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            pytest.skip(f"needs {', '.join(_NEEDED)}, and root and apt-get to install them by {_INSTALL.name}")
        subprocess.run((str(_INSTALL),), check=True, timeout=600)
    podman = Podman(root)
    podman("import", "-", IMAGE, data=_file_system())
    return podman


def _file_system() -> bytes:
    """Return a root directory with busybox in it, as a tar file."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
        tar.add(Path(busybox).resolve(), "bin/busybox")
        for applet in _APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return data.getvalue()
