"""`when`: whether a job or a step runs.

A condition that names none of `success()`, `failure()`, `always()` and `cancelled()` holds only when `success()` does
too, and is not evaluated otherwise: what it names may not be there after a failure.
"""

from __future__ import annotations

from arcentra_server.domain.expressions.complaints import type_name
from arcentra_server.domain.expressions.errors import ExpressionError, Problem
from arcentra_server.domain.expressions.evaluate import EvaluationError, evaluate
from arcentra_server.domain.expressions.functions import Meter
from arcentra_server.domain.expressions.names import STATUS_FUNCTIONS, Context, Names, Outcome
from arcentra_server.domain.expressions.program import compiled
from arcentra_server.domain.expressions.texts import OPEN, problems_of

_STATUS = frozenset(STATUS_FUNCTIONS)


def check_condition(text: str, names: Names) -> list[str]:
    """Return the faults of a condition, each with its column. An empty one has none."""
    if not text.strip():
        return []
    if OPEN in text:
        message = "a condition is an expression already: leave out `${{` and `}}`"
        return [str(ExpressionError.at(text, text.index(OPEN), message, text))]
    program = compiled(text)
    problems = list(problems_of(program, names))
    if not problems and program.type != "bool":
        what = "can be anything" if program.type == "dyn" else f"is {type_name(program.type)}"
        problems.append(Problem(0, f"a condition must be a truth value, and this {what}: compare it"))
    return [str(_error(text, problem)) for problem in problems]


def holds(text: str, context: Context, meter: Meter | None = None) -> bool:
    """Answer whether a condition holds; an empty one is `success()`.

    Args:
        text: The condition.
        context: What it is evaluated over.
        meter: What it is charged to when other expressions are evaluated at the same go.

    Raises:
        ExpressionError: it cannot be evaluated.
    """
    well = context.outcome is Outcome.SUCCESS
    if not text.strip():
        return well
    program = compiled(text)
    if not well and program.tree is not None and not program.calls & _STATUS:
        return False
    try:
        value = evaluate(program, context, meter or Meter())
    except EvaluationError as error:
        raise _error(text, Problem(error.at, str(error))) from None
    if not isinstance(value, bool):
        raise _error(text, Problem(0, "a condition must be a truth value"))
    return value


def _error(text: str, problem: Problem) -> ExpressionError:
    return ExpressionError.at(text, problem.at, problem.message, text)
