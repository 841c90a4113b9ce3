"""What a notification says when its definition does not say it: title and text of the end of a job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.domain.durations import format_duration
from arcentra_server.domain.states import RunStatus

LONGEST_TITLE = 200
LONGEST_TEXT = 4_000
_LONGEST_FACT = 300
_NOT_IN_A_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_WORDS = {
    RunStatus.SUCCESS: "succeeded",
    RunStatus.PARTIAL: "succeeded in part",
    RunStatus.TIMEOUT: "ran out of time",
    RunStatus.CANCELLED: "was cancelled",
    RunStatus.SKIPPED: "was skipped",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """What there is to tell of a job that ended. `reason` is typed, `error` for people; `link` empty: none."""

    notification_id: UUID
    failed: bool
    namespace: str
    pipeline_id: UUID
    pipeline: str
    run_id: UUID
    job_run_id: UUID
    job: str
    status: RunStatus
    reason: str = ""
    error: str = ""
    branch: str = ""
    commit: str = ""
    duration_ms: int = 0
    finished_at: datetime | None = None
    link: str = ""


def default_title(notice: Notice, *, markdown: bool) -> str:
    """Return what happened, in one line."""
    pipeline = notice.pipeline or str(notice.pipeline_id)
    word = _WORDS.get(notice.status, "failed" if notice.failed else "ended")
    return f"pipeline {_name(pipeline, markdown=markdown)}: job {_name(notice.job, markdown=markdown)} {word}"


def default_text(notice: Notice, *, markdown: bool) -> str:
    """Return the facts, a line each. What others wrote, such as the message of an error, is cut and kept to one line."""
    took = format_duration(max(1, round(notice.duration_ms / 1_000)) * 1_000) if notice.duration_ms else ""
    facts = [
        ("Reason", ": ".join(part for part in (notice.reason, notice.error) if part) if notice.failed else ""),
        ("Branch", notice.branch),
        ("Commit", notice.commit),
        ("Took", took),
        ("Run", str(notice.run_id)),
    ]
    dash = "- " if markdown else ""
    lines = [f"{dash}{label}: {_name(fact, markdown=markdown)}" for label, fact in facts if fact]
    if notice.link:
        lines.append(f"{dash}{notice.link}")
    return "\n".join(lines)


def cut(text: str, longest: int) -> str:
    """Return a text of at most so many characters, with a mark where something is missing."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def one_line(text: str) -> str:
    """Return a text without line breaks, control characters, and those that turn the direction of what follows."""
    return " ".join(_NOT_IN_A_LINE.sub(" ", text).split())


def _name(text: str, *, markdown: bool) -> str:
    plain = cut(one_line(text), _LONGEST_FACT)
    if not markdown:
        return plain
    # In a code span nothing is markup or a mention, save the mark that ends it.
    return f"`{plain.replace('`', chr(0x27))}`"
