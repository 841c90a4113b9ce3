"""What is a fault of a single field, whatever it is part of: names, variables, free-form arguments, texts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from arcentra_server.domain.clear_secrets import leaked
from arcentra_server.domain.errors import Fault

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
LARGEST_VARIABLES = 1_000
VARIABLES_BYTES = 64 * 1024
ARGS_DEPTH = 16
ARGS_KEYS = 1_000
ARGS_BYTES = 64 * 1024
ARGS_FEW, ARGS_SHORT = 8, 600
TEMPLATE = "${{"
NOT_A_VARIABLE = "a name is letters, digits and _, and starts with no digit"
_REFERENCE = re.compile(r"\s*\$\{\{\s*secrets\.[A-Za-z_][A-Za-z0-9_]{0,127}\s*\}\}\s*")


def is_reference(text: str) -> bool:
    """Answer whether a text is nothing but a reference to a secret."""
    return _REFERENCE.fullmatch(text) is not None


def check_name(name: str, path: str) -> list[Fault]:
    """Return the fault of a name that is empty or has characters or a length that names do not have."""
    if not name:
        return [Fault(path, "a name is needed")]
    if not NAME.fullmatch(name):
        return [Fault(path, f"{name[:80]!r} is not a name: 1 to 64 of A-Z a-z 0-9 . _ -")]
    return []


def check_names(names: Iterable[tuple[str, str]], kind: str) -> list[Fault]:
    """Return the faults of names, each with its path, that must differ from each other."""
    faults = []
    first: dict[str, str] = {}
    for path, name in names:
        found = check_name(name, path)
        faults += found
        if not found and name in first:
            faults.append(Fault(path, f"{kind} {name!r} is already defined at {first[name]}"))
        first.setdefault(name, path)
    return faults


def check_distinct(values: Sequence[str], path: str) -> list[Fault]:
    """Return the faults of a list in which nothing may stand twice."""
    if len(set(values)) == len(values):
        return []
    faults = []
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        if value in first:
            faults.append(Fault(f"{path}[{index}]", f"{value[:80]!r} is given twice, first in {path}[{first[value]}]"))
        first.setdefault(value, index)
    return faults


def check_env(variables: Mapping[str, str], path: str) -> list[Fault]:
    """Return the faults of variables: how many, their names, NUL bytes and secrets in their values."""
    if not variables:
        return []
    if len(variables) > LARGEST_VARIABLES:
        return [Fault(path, f"{len(variables)} entries, more than {LARGEST_VARIABLES}")]
    size = sum(len(key.encode()) + len(value.encode()) for key, value in variables.items())
    if size > VARIABLES_BYTES:
        return [Fault(path, f"{size} bytes, more than {VARIABLES_BYTES}: every step gets a copy")]
    faults = []
    for key, value in variables.items():
        where = f"{path}[{key[:80]!r}]"
        if not VARIABLE.fullmatch(key):
            faults.append(Fault(where, NOT_A_VARIABLE))
        if "\0" in value:
            faults.append(Fault(where, "the value holds a NUL byte"))
        if kind := leaked(value):
            faults.append(Fault(where, kind))
    return faults


def check_args(args: Mapping[str, Any], path: str) -> list[Fault]:
    """Return the faults of free-form arguments: depth, number of keys, size, numbers that JSON does not have."""
    if len(args) <= ARGS_FEW and all(
        isinstance(value, str) and len(key) + len(value) < ARGS_SHORT for key, value in args.items()
    ):
        # As nearly all are: whatever characters are in them, they are within every limit.
        return []
    keys = 0
    pending: list[tuple[Any, int]] = [(args, 1)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return [Fault(path, "args hold a number that is not finite")]
        if isinstance(value, (dict, list)):
            keys += len(value)
            if depth > ARGS_DEPTH or keys > ARGS_KEYS:
                return [Fault(path, "args too deep or too large")]
            children = value.values() if isinstance(value, dict) else value
            pending += [(child, depth + 1) for child in children]
    if len(json.dumps(args)) > ARGS_BYTES:
        return [Fault(path, "args too deep or too large")]
    return []


def check_leaks(args: Mapping[str, Any], path: str) -> list[Fault]:
    """Return the faults of free-form data that holds tokens in clear."""
    faults = []
    for key, value in args.items():
        if isinstance(value, str):
            if kind := leaked(value):
                faults.append(Fault(f"{path}.{key}", kind))
        else:
            faults += [Fault(where, kind) for where, text in texts_in(value, f"{path}.{key}") if (kind := leaked(text))]
    return faults


def check_text(text: str, path: str, *, longest: int = 1024) -> list[Fault]:
    """Return the fault of a text of one line that is too long or holds control characters."""
    if len(text) > longest:
        return [Fault(path, f"has {len(text)} characters, more than {longest}")]
    return [] if text.isprintable() else [Fault(path, f"{text[:80]!r} holds a character that cannot be printed")]


def check_range(value: int, least: int, most: int, path: str) -> list[Fault]:
    """Return the fault of a number that is out of its range."""
    return [] if least <= value <= most else [Fault(path, f"is {value}, must be {least} to {most}")]


def check_timeout(milliseconds: int | None, path: str) -> list[Fault]:
    """Return the fault of a time limit that is over before it begins."""
    return [Fault(path, "must be longer than zero")] if milliseconds is not None and milliseconds <= 0 else []


def unknown(value: str, known: Collection[str]) -> str:
    """Return the text for a value that is none of the known ones."""
    close = get_close_matches(value[:80], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(known)}"
    return f"{value[:80]!r} is not known; {hint}"


def texts_in(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield every text in free-form data with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_in(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts_in(item, f"{path}[{index}]")
