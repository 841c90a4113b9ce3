"""Secrets: where one holds, how it is named, what a value must be, and what to mind about it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from arcentra_server.domain.errors import Fault
from arcentra_server.domain.field_checks import VARIABLE
from arcentra_server.domain.masking import LEAST_BYTES

LARGEST_VALUE = 64 * 1024  # bytes
_SHORT_BYTES = 8

NOT_MASKED = f"the value is shorter than {LEAST_BYTES} bytes: it is not masked in logs"
SHORT = (
    f"the value is shorter than {_SHORT_BYTES} bytes: other text in logs may be masked with it, and it is easy to guess"
)
LINES_NOT_MASKED = f"lines of the value that are shorter than {LEAST_BYTES} bytes are not masked in logs by themselves"
LINE_BREAK = "the value is one line and ends with a line break, which is part of it: is it meant to be?"


@dataclass(frozen=True, slots=True)
class SecretScope:
    """Where a secret holds: in one pipeline, else in one namespace, else, with neither, everywhere."""

    namespace: str = ""
    pipeline_id: UUID | None = None


def bound_to(scope: SecretScope, name: str, version: int) -> tuple[str, ...]:
    """Return what a version of a secret is sealed with: see `domain/secret_box.py`."""
    return ("secret", scope.namespace, str(scope.pipeline_id or ""), name, str(version))


def check_secret_name(name: str) -> list[Fault]:
    """Return the fault of a name. The text does not repeat it: people mix up name and value."""
    if VARIABLE.fullmatch(name):
        return []
    return [Fault("name", "is 1 to 128 letters, digits and _, and does not start with a digit")]


def check_secret_value(value: str) -> list[Fault]:
    """Return the fault of a value; environment variables, as which steps get it, hold no NUL."""
    if not value:
        return [Fault("value", "is required")]
    if len(value.encode()) > LARGEST_VALUE:
        return [Fault("value", f"is at most {LARGEST_VALUE} bytes")]
    if "\0" in value:
        return [Fault("value", "holds a NUL character")]
    return []


def warnings_about(value: str) -> list[str]:
    """Return what whoever sets a value should know about it."""
    size = len(value.strip("\r\n").encode())
    lines = [line for line in value.splitlines() if line.strip()]
    warnings = []
    if size < LEAST_BYTES:
        warnings.append(NOT_MASKED)
    elif size < _SHORT_BYTES:
        warnings.append(SHORT)
    if len(lines) > 1 and any(len(line.strip().encode()) < LEAST_BYTES for line in lines):
        warnings.append(LINES_NOT_MASKED)
    if len(lines) == 1 and value.endswith(("\n", "\r")):
        warnings.append(LINE_BREAK)
    return warnings
