"""Lists: pages, and a closed list of what they can be sorted by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from arcentra_server.domain.errors import ValidationError

DEFAULT_PAGE_SIZE = 20
LARGEST_PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted. `number` counts from 1; `sort_by` empty: by creation."""

    number: int = 1
    size: int = DEFAULT_PAGE_SIZE
    sort_by: str = ""
    descending: bool = True

    @classmethod
    def of(cls, number: int, size: int, sort_by: str, *, descending: bool) -> Page:
        """Build a page from what a caller wrote; 0 stands for the default.

        Raises:
            ValidationError: a number is negative, or the size is over 100.
        """
        if number < 0:
            raise ValidationError.at("page", "counts from 1")
        if not 0 <= size <= LARGEST_PAGE_SIZE:
            raise ValidationError.at("page_size", f"is 1 to {LARGEST_PAGE_SIZE}")
        # Nothing asked for: the newest first.
        return cls(number or 1, size or DEFAULT_PAGE_SIZE, sort_by, descending or not sort_by)

    def clause(self, columns: Mapping[str, str]) -> str:
        """Return the ORDER BY, LIMIT and OFFSET of this page; `columns` is the closed list, name to SQL.

        Raises:
            ValidationError: the name is not in the list.
        """
        name = self.sort_by or "created_at"
        if name not in columns:
            raise ValidationError.at("sort_by", f"invalid sort field; one of {', '.join(sorted(columns))}")
        direction = "DESC" if self.descending else "ASC"
        offset = (self.number - 1) * self.size
        return f"ORDER BY {columns[name]} {direction} NULLS LAST, id {direction} LIMIT {self.size} OFFSET {offset}"
