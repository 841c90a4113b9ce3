"""What a code host tells of: one form for the events of all of them.

An event comes from outside. Its texts are cleaned and cut when it is read, and it names who acts and which repositories
are concerned by the ids that the host gave them: names can be chosen, ids cannot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from arcentra_server.domain.repositories import Repository

LONGEST_TEXT = 4 * 1024
LARGEST_CONTEXT = 16 * 1024
MOST_PATHS = 3_000
SHORT_TEXT = 256
_SHOWN_COMMIT = 7
_LINE_ENDS = re.compile(r"[\t-\r\u2028\u2029]+")
# Controls, and what makes a text read otherwise than it is.
_MISLEADING = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Forge(StrEnum):
    """Who sends to a hook."""

    GITHUB = "GITHUB"
    GITLAB = "GITLAB"
    GITEA = "GITEA"
    GENERIC = "GENERIC"


class Kind(StrEnum):
    """The events that all code hosts have. A generic hook has names of its own."""

    PUSH = "push"
    TAG = "tag"
    PULL_REQUEST = "pull_request"


@dataclass(frozen=True, slots=True)
class ForgeEvent:
    """One event.

    `branch` is what the globs of branches are compared with: of a pull request, the branch it wants to go to. `ref` is
    what to check out, as git names it. `fork`: the code comes from another repository than the one it goes to. `paths`:
    the files that changed, None when the sender does not say. `ignored`: why nothing starts, whatever the triggers say.
    """

    kind: str
    repo: str = ""
    repo_id: str = ""
    clone_url: str = ""
    ssh_url: str = ""
    branch: str = ""
    tag: str = ""
    ref: str = ""
    commit: str = ""
    action: str = ""
    actor: str = ""
    actor_id: str = ""
    head_branch: str = ""
    base_branch: str = ""
    head_repo_id: str = ""
    fork: bool = False
    number: int = 0
    title: str = ""
    message: str = ""
    url: str = ""
    paths: tuple[str, ...] | None = None
    payload: Mapping[str, Any] | None = None
    ignored: str = ""

    @property
    def repository(self) -> Repository:
        """What is said of the repository that the code goes to."""
        return Repository(tuple(url for url in (self.clone_url, self.ssh_url) if url), self.repo)

    def summary(self) -> str:
        """Return what happened, in short: `push main 1a2b3c4`."""
        if self.kind == Kind.PULL_REQUEST:
            words = [self.kind, f"#{self.number}", self.action, f"{self.head_branch} to {self.base_branch}"]
        else:
            words = [self.kind, self.action, self.tag or self.branch]
        return " ".join(word for word in (*words, self.commit[:_SHOWN_COMMIT]) if word)[:SHORT_TEXT]

    def to_json(self) -> dict[str, Any]:
        """Return the stored form, without what is as by default."""
        return {name: value for name, value in asdict(self).items() if value not in ("", None, False, 0)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ForgeEvent:
        """Read the stored form."""
        paths = document.get("paths")
        return cls(**{**document, "paths": None if paths is None else tuple(paths)})

    def context(self) -> dict[str, Any]:
        """Return what expressions see as `event`: at most 16 KiB as JSON. What is too much is cut, the payload first."""
        paths = list(self.paths or ())
        whole = {
            "kind": self.kind,
            "repo": self.repo,
            "branch": self.branch,
            "tag": self.tag,
            "commit": self.commit,
            "actor": self.actor,
            "action": self.action,
            "fork": self.fork,
            "message": self.message,
            "url": self.url,
            "number": self.number,
            "title": self.title,
            "head_branch": self.head_branch,
            "base_branch": self.base_branch,
            "paths": paths,
        }
        for smaller in (
            {**whole, "payload": self.payload} if self.payload is not None else whole,
            whole,
            {**whole, "paths": paths[:100]},
            {**whole, "paths": []},
        ):
            if _size(smaller) <= LARGEST_CONTEXT:
                return smaller
        return {key: cut(value, SHORT_TEXT) if isinstance(value, str) else value for key, value in smaller.items()}


def clean(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return a text that can be stored: no NUL, nothing that is not a character, no more bytes than `longest`."""
    return cut(text.replace("\0", "").encode("utf-8", "replace").decode(), longest)


def clean_line(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return a text that can be stored and shown as one line, of at most `longest` bytes.

    What would steer a terminal or turn the order of letters is replaced, not left out: with `ma` and `in` around it, the
    text must not read as `main`, for a glob neither.
    """
    return cut(_MISLEADING.sub("\ufffd", _LINE_ENDS.sub(" ", clean(text, longest))), longest)


def is_one_line(text: str) -> bool:
    """Answer whether `clean_line` has nothing to replace in a text."""
    return _LINE_ENDS.search(text) is None and _MISLEADING.search(text) is None


def cut(text: str, longest: int) -> str:
    """Return the beginning of a text, at most so many bytes of it."""
    return text.encode()[:longest].decode("utf-8", "ignore")


def _size(document: Mapping[str, Any]) -> int:
    return len(json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode())
