"""Read the body of a delivery: JSON that comes from outside, so nothing in it has to be of the type it should have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import parse_qs

from arcentra_server.domain.forge import LONGEST_TEXT, MOST_PATHS, SHORT_TEXT, clean, clean_line, is_one_line

LARGEST_NUMBER = 2**31 - 1
LARGEST_FORM_FIELDS = 10
HEADS = "refs/heads/"
TAGS = "refs/tags/"
SKIPPED = "the message of the commit says [skip ci]"
_SKIP_MARKS = ("[skip ci]", "[ci skip]")
_COMMIT = re.compile(r"[0-9a-fA-F]{4,64}")
# As of a branch that a call names: none that git could read as an option or as another kind of revision.
_REF = re.compile(r"(?!-)[^\x00-\x20\x7f~^:?*\[\\]{1,255}")


class PayloadError(ValueError):
    """The body is not what its sender should have sent. The text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a body. What is not there, or of another type, reads as empty."""

    value: Any

    def at(self, *keys: str) -> Node:
        """Return what is inside, key by key."""
        value = self.value
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return Node(value)

    @property
    def present(self) -> bool:
        return self.value is not None

    def items(self) -> Iterator[Node]:
        return (Node(item) for item in self.value) if isinstance(self.value, list) else iter(())

    def text(self, *keys: str, longest: int = LONGEST_TEXT) -> str:
        value = self.at(*keys).value
        return clean(value, longest) if isinstance(value, str) else ""

    def line(self, *keys: str, longest: int = LONGEST_TEXT) -> str:
        value = self.at(*keys).value
        return clean_line(value, longest) if isinstance(value, str) else ""

    def name(self, *keys: str) -> str:
        return self.line(*keys, longest=SHORT_TEXT)

    def identity(self, *keys: str) -> str:
        """Return an id, which is a number or a text."""
        value = self.at(*keys).value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value) if abs(value) < 2**63 else ""
        return clean_line(value, SHORT_TEXT) if isinstance(value, str) else ""

    def number(self, *keys: str) -> int:
        value = self.at(*keys).value
        return value if type(value) is int and 0 <= value <= LARGEST_NUMBER else 0

    def flag(self, *keys: str) -> bool:
        return self.at(*keys).value is True

    def texts(self, *keys: str) -> tuple[str, ...]:
        return tuple(item.text() for item in self.at(*keys).items() if isinstance(item.value, str))

    @property
    def mapping(self) -> Mapping[str, Any]:
        return self.value if isinstance(self.value, Mapping) else {}


def read_body(body: bytes, content_type: str) -> Node:
    """Parse a body: JSON, or a form with the JSON in its field `payload`, as GitHub can be set to.

    Raises:
        PayloadError: it is neither.
    """
    if content_type.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
        body = _form_payload(body)
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PayloadError("the body is not JSON: set the content type of the hook to application/json") from error
    if not isinstance(value, dict):
        raise PayloadError("the body is not a JSON object")
    return Node(value)


def commit_of(text: str, what: str) -> str:
    """Return the id of a commit.

    Raises:
        PayloadError: it is not one.
    """
    if not _COMMIT.fullmatch(text):
        raise PayloadError(f"{what}: {text[:80]!r} is not the id of a commit")
    return text.lower()


def ref_of(text: str, what: str) -> str:
    """Return the name of a branch or tag.

    Raises:
        PayloadError: it is not one.
    """
    # Not cleaned: what is left would be the name of another one.
    if not _REF.fullmatch(text) or not is_one_line(text):
        raise PayloadError(f"{what}: {text[:80]!r} is not the name of a branch or tag")
    return text


def changed_paths(commits: Node, total: int | None) -> tuple[str, ...] | None:
    """Return the files that commits changed; None unless all of the `total` commits are listed, and there are some.

    A push that lists no commit has moved a branch: what changed by that, the sender does not say.
    """
    listed = list(commits.items())
    if not listed or (total is not None and total != len(listed)):
        return None
    paths = dict.fromkeys(
        path for commit in listed for key in ("added", "modified", "removed") for path in commit.texts(key)
    )
    return tuple(paths) if len(paths) <= MOST_PATHS else None


def is_zero(commit: str) -> bool:
    """Answer whether an id stands for no commit: the ref was deleted."""
    return bool(commit) and not commit.strip("0")


def asks_to_skip(message: str) -> bool:
    """Answer whether the message of a commit asks that nothing starts because of it."""
    return any(mark in message.lower() for mark in _SKIP_MARKS)


def _form_payload(body: bytes) -> bytes:
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=LARGEST_FORM_FIELDS, errors="strict")
        return fields["payload"][0].encode()
    except (ValueError, KeyError) as error:
        reason = "the form has no field `payload`: set the content type of the hook to application/json"
        raise PayloadError(reason) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
