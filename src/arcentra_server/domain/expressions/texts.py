"""Texts with `${{ }}` in them: taken apart, checked, and rendered.

`$${{` stands for `${{` itself. A text without `${{` is never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from arcentra_server.domain.expressions.errors import ExpressionError, Problem
from arcentra_server.domain.expressions.evaluate import EvaluationError, evaluate
from arcentra_server.domain.expressions.functions import Meter, Refused, TooCostly
from arcentra_server.domain.expressions.marks import mark
from arcentra_server.domain.expressions.names import STATUS_FUNCTIONS, Context, Names, unknown_names
from arcentra_server.domain.expressions.program import Program, compiled
from arcentra_server.domain.expressions.results import result
from arcentra_server.domain.expressions.values import LARGEST_RESULT, size_of, text_of, without_nul

OPEN = "${{"
_CLOSE = "}}"
_SECRET = re.compile(r"secrets\s*\.\s*([A-Za-z_][A-Za-z0-9_]{0,127})", re.ASCII)
_QUOTE_OR_BRACE = re.compile(r"[\"'{}]")
_RAW = re.compile(r"(?<![A-Za-z0-9_])(?:[rR]|[rR][bB]|[bB][rR])\Z")
_QUOTES = ('"""', "'''", '"', "'")


@dataclass(frozen=True, slots=True)
class Embedded:
    """One `${{ }}` of a text. `at`: where the expression begins in the text; `secret`: the secret that it is."""

    text: str
    at: int
    source: str
    secret: str | None

    def error(self, problem: Problem) -> ExpressionError:
        """Return the error of a problem of it, placed in the text."""
        return ExpressionError.at(self.text, self.at + problem.at, problem.message, self.source)

    def value(self, context: Context, meter: Meter) -> Any:
        """Return its value; a secret is a mark.

        Raises:
            ExpressionError: it has none, or takes more than `meter` has left.
        """
        if self.secret is not None:
            return mark(self.secret)
        try:
            # Before it is compiled: once nothing is left, one expression after the other must cost nothing.
            meter.step()
            return result(evaluate(compiled(self.source), context, meter), meter)
        except EvaluationError as error:
            raise self.error(Problem(error.at, str(error))) from None
        except (Refused, TooCostly) as error:
            raise self.error(Problem(0, str(error))) from None

    def as_text(self, context: Context, meter: Meter) -> str:
        """Return its value as a part of a text.

        Raises:
            ExpressionError: it has none, or one that is no part of a text.
        """
        value = self.value(context, meter)
        text = text_of(value)
        if text is None:
            what = "null" if value is None else "a list" if isinstance(value, list) else "a map"
            raise self.error(
                Problem(0, f"its value is {what}, which cannot stand in a text: use a field or item of it")
            )
        return text


def parts(text: str) -> Iterator[str | Embedded]:
    """Yield what a text consists of.

    Raises:
        ExpressionError: a `${{` is not closed.
    """
    done = 0
    while (start := text.find(OPEN, done)) >= 0:
        if start > done and text[start - 1] == "$":
            yield text[done : start - 1] + OPEN
            done = start + len(OPEN)
            continue
        if start > done:
            yield text[done:start]
        inner = start + len(OPEN)
        end = _end(text, inner)
        if end is None:
            hint = "; a text in quotes in it may not be closed" if _CLOSE in text[inner:] else ""
            raise ExpressionError.at(text, start, f"`{OPEN}` is not closed by `{_CLOSE}`{hint}", text[start:])
        source = text[inner:end]
        at = inner + len(source) - len(source.lstrip())
        secret = _SECRET.fullmatch(source.strip())
        yield Embedded(text, at, source.strip(), secret.group(1) if secret else None)
        done = end + len(_CLOSE)
    if done < len(text):
        yield text[done:]


def outline(text: str, hole: str) -> str:
    """Return a text with a hole in the place of each expression, also of one that is not closed."""
    if OPEN not in text:
        return text
    try:
        return "".join(part if isinstance(part, str) else hole for part in parts(text))
    except ExpressionError:
        return text.replace(OPEN, hole)


def holds_expression(value: Any) -> bool:
    """Answer whether a text of JSON data holds an expression, also one that is not closed; `$${{` is none."""
    try:
        return any(isinstance(part, Embedded) for text in texts_of(value) if OPEN in text for part in parts(text))
    except ExpressionError:
        return True


def check_text(text: str, names: Names) -> list[str]:
    """Return the faults of a text with `${{ }}`, each with its column."""
    if OPEN not in text:
        return []
    try:
        return [str(error) for part in parts(text) if isinstance(part, Embedded) for error in _faults(part, names)]
    except ExpressionError as error:
        return [str(error)]


def render(text: str, context: Context, meter: Meter | None = None) -> str:
    """Return a text with the values of its expressions; secrets become marks.

    Args:
        text: The text.
        context: What its expressions are evaluated over.
        meter: What they are charged to when the text is one of several.

    Raises:
        ExpressionError: an expression cannot be evaluated, or the text becomes too large.
    """
    if OPEN not in text:
        return without_nul(text)
    meter = meter or Meter()
    rendered = "".join(
        without_nul(part) if isinstance(part, str) else part.as_text(context, meter) for part in parts(text)
    )
    if size_of(rendered) > max(LARGEST_RESULT, len(text)):
        raise ExpressionError(f"the text becomes larger than {LARGEST_RESULT // 1024} KiB", text, column=1)
    return rendered


def render_value(value: Any, context: Context, meter: Meter | None = None) -> Any:
    """Return JSON data with its texts rendered; a text that is one `${{ }}` and nothing else keeps the type of its value.

    Args:
        value: The data.
        context: What its expressions are evaluated over.
        meter: What they are charged to when the data is a part of something.

    Raises:
        ExpressionError: see `render`.
    """
    meter = meter or Meter()
    if isinstance(value, str):
        if value.startswith(OPEN):
            whole = list(parts(value))
            if len(whole) == 1 and isinstance(whole[0], Embedded):
                return whole[0].value(context, meter)
        return render(value, context, meter)
    if isinstance(value, Mapping):
        return {key: render_value(item, context, meter) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [render_value(item, context, meter) for item in value]
    return value


def literal(text: str) -> str:
    """Return a text from outside so that it can be put among templates: rendered, it is itself again."""
    return text.replace(OPEN, f"${OPEN}")


def is_template(value: Any) -> bool:
    """Answer whether a text of JSON data holds `${{`."""
    return any(OPEN in text for text in texts_of(value))


def secrets_in(value: Any) -> frozenset[str]:
    """Return the names of the secrets that JSON data uses."""
    return frozenset(part.secret for part in embedded(value) if part.secret is not None)


def uses_event(value: Any) -> bool:
    """Answer whether an expression of JSON data uses what came with the event."""
    return any("event" in roots(part.source) for part in embedded(value) if part.secret is None)


def roots(source: str) -> frozenset[str]:
    """Return which of the names that there are an expression uses."""
    return frozenset(reference.root for reference in compiled(source).references)


def roots_in(value: Any) -> frozenset[str]:
    """Return which of the names that there are the expressions of JSON data use, but for secrets."""
    return frozenset(root for part in embedded(value) if part.secret is None for root in roots(part.source))


def env_named(value: Any) -> frozenset[str] | None:
    """Return the environment variables that expressions of JSON data name, None when they may name any."""
    names = set()
    for part in embedded(value):
        references = compiled(part.source).references if part.secret is None else ()
        for reference in references:
            if reference.root == "env":
                if not reference.path:
                    return None
                names.add(reference.path[0].name)
    return frozenset(names)


def texts_of(value: Any) -> Iterator[str]:
    """Yield every text of JSON data; names in it are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_of(item)


def problems_of(program: Program, names: Names) -> Iterator[Problem]:
    """Yield everything that is wrong with an expression at its place."""
    yield from program.problems
    yield from unknown_names(program.references, names)
    if not names.status_functions:
        for name in sorted(program.calls & frozenset(STATUS_FUNCTIONS)):
            yield Problem(0, f"{name}() can only be used in when")


def _faults(part: Embedded, names: Names) -> Iterator[ExpressionError]:
    if part.secret is not None:
        if not names.secrets:
            yield part.error(Problem(0, "secrets cannot be used here"))
        return
    for problem in problems_of(compiled(part.source), names):
        yield part.error(problem)


def embedded(value: Any) -> Iterator[Embedded]:
    """Yield the expressions of JSON data; of a text that is not closed those before that."""
    for text in texts_of(value):
        if OPEN in text:
            try:
                for part in parts(text):
                    if isinstance(part, Embedded):
                        yield part
            except ExpressionError:
                continue


def _end(text: str, index: int) -> int | None:
    """Return where the `}}` is that closes an expression: not in quotes, and not that of a `{` in it."""
    close = text.find(_CLOSE, index)
    if close < 0 or _QUOTE_OR_BRACE.search(text, index, close) is None:
        return close if close >= 0 else None
    depth = 0
    while found := _QUOTE_OR_BRACE.search(text, index):
        index = found.start()
        character = text[index]
        if character in "\"'":
            after = _behind_quotes(text, index)
            if after is None:
                return None
            index = after
            continue
        if character == "}" and depth == 0 and text.startswith(_CLOSE, index):
            return index
        depth = max(0, depth + (1 if character == "{" else -1))
        index += 1
    return None


def _behind_quotes(text: str, index: int) -> int | None:
    """Return what comes behind a text in quotes that begins at an index, None when it does not end."""
    quotes = next(quotes for quotes in _QUOTES if text.startswith(quotes, index))
    raw = _RAW.search(text, max(0, index - 3), index) is not None
    index += len(quotes)
    while index < len(text):
        if text.startswith(quotes, index):
            return index + len(quotes)
        if text[index] == "\n" and len(quotes) == 1:
            return None
        index += 2 if text[index] == "\\" and not raw else 1
    return None
