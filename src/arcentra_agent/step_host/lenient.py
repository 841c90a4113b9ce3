"""Reading what another version of this program has written. Pure."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any


def known_fields(dataclass: type, stored: object) -> dict[str, Any]:
    """Return what is stored of the fields of a dataclass; what it does not know is of a later version, and left out.

    Raises:
        TypeError: when it is no mapping.
    """
    if not isinstance(stored, Mapping):
        raise TypeError(f"expected an object, got {type(stored).__name__}")
    return {field.name: stored[field.name] for field in fields(dataclass) if field.name in stored}
