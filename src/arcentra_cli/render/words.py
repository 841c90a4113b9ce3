"""The words for statuses, times and durations, and the style each status is shown in."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2

TERMINAL = frozenset({"SUCCESS", "FAILED", "CANCELLED", "PARTIAL", "SKIPPED", "TIMEOUT"})
_STYLES = {
    "SUCCESS": "green",
    "FAILED": "red",
    "TIMEOUT": "red",
    "CANCELLED": "magenta",
    "PARTIAL": "yellow",
    "PAUSED": "yellow",
    "RUNNING": "cyan",
    "BUSY": "cyan",
    "ONLINE": "green",
    "IDLE": "green",
    "OFFLINE": "red",
    "DRAINING": "yellow",
    "DISABLED": "red",
    "PENDING_APPROVAL": "yellow",
    "SKIPPED": "dim",
    "PENDING": "dim",
    "QUEUED": "dim",
}


def enum_word(name_of: Callable[[Any], str], prefix: str, value: int) -> str:
    """The name of a value of an enum without its prefix; an unknown value as its number."""
    try:
        return name_of(value).removeprefix(prefix)
    except ValueError:  # a newer server knows more values
        return str(value)


def pipeline_status(value: int) -> str:
    """`PIPELINE_STATUS_SUCCESS` as `SUCCESS`; an unknown value as its number."""
    return enum_word(pipeline_pb2.PipelineStatus.Name, "PIPELINE_STATUS_", value)


def step_status(value: int) -> str:
    """`STEP_RUN_STATUS_QUEUED` as `QUEUED`; an unknown value as its number."""
    return enum_word(steprun_pb2.StepRunStatus.Name, "STEP_RUN_STATUS_", value)


def agent_status(value: int) -> str:
    """`AGENT_STATUS_IDLE` as `IDLE`; an unknown value as its number."""
    return enum_word(agent_pb2.AgentStatus.Name, "AGENT_STATUS_", value)


def trigger_type(value: int) -> str:
    """`TRIGGER_TYPE_CRON` as `cron`; an unknown value as its number."""
    return enum_word(pipeline_pb2.TriggerType.Name, "TRIGGER_TYPE_", value).lower()


def status_style(word: str) -> str:
    """The rich style of a status word."""
    return _STYLES.get(word, "")


def styled(word: str) -> Text:
    """A status word in its style."""
    return Text(word, style=status_style(word))


def duration(milliseconds: int) -> str:
    """`840ms`, `3.2s`, `4m05s`, `2h03m`."""
    if milliseconds < 1_000:
        return f"{milliseconds}ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.1f}s"
    seconds = milliseconds // 1000
    if seconds < 3_600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def span(start: int, end: int, milliseconds: int, now: float) -> str:
    """How long something took, or has been running at `now` (Unix seconds); empty when it has not started."""
    if not start:
        return ""
    if end or milliseconds:
        return duration(milliseconds)
    return duration(max(0, int((now - start) * 1000)))


def moment(unix_seconds: int) -> str:
    """A time in the reader's time zone; empty for none."""
    if not unix_seconds:
        return ""
    return datetime.fromtimestamp(unix_seconds, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ago(unix_seconds: int, now: float) -> str:
    """How long before `now` a moment was; `never` for none."""
    if not unix_seconds:
        return "never"
    return f"{duration(max(0, int(now - unix_seconds)) * 1000)} ago"
