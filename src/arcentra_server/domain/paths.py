"""Paths in the workspace of a job, as a definition writes them: relative, and never out of it."""

from __future__ import annotations

from arcentra_server.domain.errors import Fault

LONGEST_PATH = 1_024


def check_path(path_text: str, path: str) -> list[Fault]:
    """Return the fault of a path or glob that is not one inside the workspace.

    What `${{ }}` becomes is not known here: the agent checks the path that it gets once more.
    """
    if not path_text:
        return [Fault(path, "a path in the workspace is needed")]
    if len(path_text) > LONGEST_PATH:
        return [Fault(path, f"has {len(path_text)} characters, more than {LONGEST_PATH}")]
    if not path_text.isprintable() or "\\" in path_text:
        return [Fault(path, f"{path_text[:80]!r} holds a character that paths do not have")]
    if path_text.startswith(("/", "~", "-")) or ".." in path_text.split("/"):
        return [Fault(path, f"{path_text[:80]!r} is not a path inside the workspace")]
    return []
