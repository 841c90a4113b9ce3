"""Deliveries of anything else: JSON whose keys are those that expressions see of an event.

`event` names the event; everything else may be left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from arcentra_server.domain.forge import LONGEST_TEXT, MOST_PATHS, SHORT_TEXT, ForgeEvent, clean
from arcentra_server.domain.forge_payload import SKIPPED, Node, PayloadError, asks_to_skip, commit_of, ref_of

LARGEST_PAYLOAD = 8 * 1024
DEEPEST_PAYLOAD = 16
_EVENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,63}")


class _TooDeepError(Exception):
    """The body is nested deeper than what is kept of one."""


def read(payload: Node) -> ForgeEvent:
    """Read a delivery.

    Raises:
        PayloadError: it names no event, or something in it is not what its key says.
    """
    event = payload.text("event")
    if not _EVENT.fullmatch(event):
        raise PayloadError(f"event: {event[:80]!r} is not the name of an event, for example deploy")
    branch = ref_of(payload.text("branch"), "branch") if payload.text("branch") else ""
    tag = ref_of(payload.text("tag"), "tag") if payload.text("tag") else ""
    commit = commit_of(payload.text("commit"), "commit") if payload.text("commit") else ""
    message = payload.text("message")
    return ForgeEvent(
        event,
        repo=payload.name("repo"),
        clone_url=payload.text("clone_url"),
        branch=branch,
        tag=tag,
        ref=branch or (f"refs/tags/{tag}" if tag else ""),
        commit=commit,
        action=payload.name("action"),
        actor=payload.name("actor"),
        head_branch=payload.name("head_branch"),
        base_branch=payload.name("base_branch"),
        fork=payload.flag("fork"),
        number=payload.number("number"),
        title=payload.line("title"),
        message=message,
        url=payload.line("url"),
        paths=_paths(payload),
        payload=_small(payload.mapping),
        ignored=SKIPPED if asks_to_skip(message) else "",
    )


def _paths(payload: Node) -> tuple[str, ...] | None:
    if not payload.at("paths").present:
        return None
    paths = payload.texts("paths")
    return paths if len(paths) <= MOST_PATHS else None


def _small(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the body if it is small enough to be kept, with its texts cleaned.

    Raises:
        PayloadError: a number in it is one that nothing behind could keep or show.
    """
    try:
        kept = _cleaned(body, (), DEEPEST_PAYLOAD)
    except _TooDeepError:
        return None
    return kept if len(json.dumps(kept, ensure_ascii=False).encode()) <= LARGEST_PAYLOAD else None


def _cleaned(value: Any, path: tuple[str | int, ...], depth: int) -> Any:
    if depth == 0:
        raise _TooDeepError
    if isinstance(value, str):
        return clean(value, LONGEST_TEXT)
    if isinstance(value, Mapping):
        return {clean(key, LONGEST_TEXT): _cleaned(item, (*path, key), depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item, (*path, index), depth - 1) for index, item in enumerate(value)]
    if isinstance(value, (int, float)) and not _is_kept(value):
        where = clean(".".join(map(str, path)), SHORT_TEXT)
        raise PayloadError(f"{where!r}: the number is beyond 64 bits: send it as a text")
    return value


def _is_kept(number: float) -> bool:
    """Answer whether a number can be stored, calculated with and shown. One like 1e999 was read as infinite."""
    return math.isfinite(number) if isinstance(number, float) else -(2**63) <= number < 2**63
