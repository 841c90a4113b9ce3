"""The directories that the steps of a job share, from its first step on this agent until the server releases the job."""

import contextlib
import json
import os
import re
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

import structlog

# One component and never a path: a workspace inside another would be removed with it.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_log = structlog.get_logger("arcentra_agent")


class WorkspaceError(ValueError):
    """A workspace has a name that cannot be one of a directory of its own."""


class Workspaces:
    """Which directories exist, for which jobs, and how many steps are in each.

    `throw` takes a tree away; it is called when the last step has left and every job is released. Which jobs have which
    directories is kept beside `root`, for the next process of the agent.
    """

    def __init__(self, root: Path, throw: Callable[[Path], None]) -> None:
        self._root = root
        self._list = root.with_suffix(".json")
        self._throw = throw
        self._jobs = {name: jobs for name, jobs in _read_list(self._list).items() if (root / name).is_dir()}
        self._steps: dict[str, int] = {}

    @property
    def names(self) -> set[str]:
        """The directories that are kept."""
        return set(self._jobs)

    @property
    def job_ids(self) -> list[str]:
        """The jobs whose workspace is kept."""
        return sorted(set().union(*self._jobs.values()))

    def enter(self, name: str, job_id: str) -> Path:
        """Make the workspace if it is not there and hold it for a step.

        Raises:
            WorkspaceError: for a name that is no plain directory name.
            OSError: when the directory cannot be made.
        """
        name = name or job_id
        path = self._root / _checked(name)
        path.mkdir(exist_ok=True)
        jobs = self._jobs.setdefault(name, set())
        if job_id not in jobs:
            jobs.add(job_id)
            self._keep_list()
        self._steps[name] = self._steps.get(name, 0) + 1
        return path

    def leave(self, name: str, job_id: str) -> None:
        """Let go of the workspace that a step entered."""
        name = name or job_id
        self._steps[name] -= 1
        self._clear(name)

    def release(self, job_id: str) -> None:
        """Forget a job that ended; a workspace that no other job needs goes as soon as no step is in it."""
        for name in [name for name, jobs in self._jobs.items() if job_id in jobs]:
            self._jobs[name].discard(job_id)
            self._keep_list()
            self._clear(name)

    def _clear(self, name: str) -> None:
        if self._steps.get(name) or self._jobs.get(name):
            return
        self._steps.pop(name, None)
        self._jobs.pop(name, None)
        try:
            # Moved and not deleted: a job that gets the same name a moment later starts in an empty directory.
            self._throw(self._root / name)
        except OSError as error:
            _log.warning("workspace_not_removed", workspace=name, error=str(error))

    def _keep_list(self) -> None:
        """Write the list down, whole or not at all; without room for it, jobs end with this process of the agent."""
        draft = self._list.with_suffix(".new")
        try:
            draft.write_text(json.dumps({name: sorted(jobs) for name, jobs in self._jobs.items()}))
            draft.replace(self._list)
        except OSError as error:
            _log.warning("workspaces_not_kept", path=str(self._list), error=str(error))


def _read_list(path: Path) -> dict[str, set[str]]:
    """Return which jobs had which directories; none where that was not kept, as by earlier versions."""
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
        return {name: set(jobs) for name, jobs in json.loads(path.read_bytes()).items()}
    return {}


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise WorkspaceError(f"workspace: expected a name of letters, digits, '.', '_' and '-', got {name[:128]!r}")
    return name


def remove_tree(path: Path) -> None:
    """Delete a file or directory tree, read-only directories included; what cannot be deleted is logged and stays."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        _remove_directory(path)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("tree_not_removed", path=str(path), error=str(error))


def _remove_directory(root: Path) -> None:
    """Delete a directory tree of any depth.

    What is deeper down is moved up to the root, so that neither the stack nor the length of paths is a limit.
    """
    name, count = uuid.uuid4().hex, 0
    pending = [root]
    while pending:
        directory = pending[-1]
        own(directory)
        moved: list[Path] = []
        # By its descriptor: no link that takes the place of the directory is followed.
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with os.scandir(descriptor) as scan:
                entries = list(scan)
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=descriptor)
                elif directory == root:
                    moved.append(root / entry.name)
                else:
                    _own_at(entry.name, descriptor)
                    count += 1
                    target = root / f"{name}-{count}"
                    os.rename(entry.name, target, src_dir_fd=descriptor)
                    moved.append(target)
        finally:
            os.close(descriptor)
        if directory != root or not moved:
            directory.rmdir()
            pending.pop()
        pending += moved


def own(path: Path) -> None:
    """Make a directory usable for its owner: package caches are often written read-only. Others are left alone.

    Raises:
        OSError: when it is not there, or another user's.
    """
    _own_at(str(path), None)


def _own_at(name: str, descriptor: int | None) -> None:
    mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(name, stat.S_IMODE(mode) | stat.S_IRWXU, dir_fd=descriptor)
