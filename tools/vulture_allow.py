"""Names that a framework calls or reads, so that no line of ours uses them. Each says who does."""

from __future__ import annotations

ALLOWED: dict[str, str] = {}
