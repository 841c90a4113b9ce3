"""The expression language: CEL in `when` and in `${{ }}`, for users described in `docs/expressions.md`.

names       what expressions may name at a place, and what they are evaluated over
program     an expression, parsed, type-checked and held to its limits (`syntax`, `wire`, `complaints`)
evaluate    its value, within bounds (`functions`, `values`, `results`)
texts       texts with `${{ }}`; `marks` stand for secrets in what comes out
conditions  `when`
templates   a step, rendered when its turn comes; `scripts` keeps values out of program text
check       all expressions of a definition
"""

from __future__ import annotations

from arcentra_server.domain.expressions.conditions import check_condition, holds
from arcentra_server.domain.expressions.errors import ExpressionError
from arcentra_server.domain.expressions.functions import Meter
from arcentra_server.domain.expressions.marks import fill_secrets, marks_in
from arcentra_server.domain.expressions.names import Context, Names, Outcome
from arcentra_server.domain.expressions.templates import Rendered, Templates, rendered, templates_of
from arcentra_server.domain.expressions.texts import (
    check_text,
    env_named,
    is_template,
    literal,
    render,
    render_value,
    roots_in,
    secrets_in,
    uses_event,
)

__all__ = [
    "Context",
    "ExpressionError",
    "Meter",
    "Names",
    "Outcome",
    "Rendered",
    "Templates",
    "check_condition",
    "check_text",
    "env_named",
    "fill_secrets",
    "holds",
    "is_template",
    "literal",
    "marks_in",
    "render",
    "render_value",
    "rendered",
    "roots_in",
    "secrets_in",
    "templates_of",
    "uses_event",
]
