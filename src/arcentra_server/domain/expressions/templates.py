"""The parts of a step that are rendered when its turn comes, as they are kept until then."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from arcentra_server.domain.expressions.errors import ExpressionError
from arcentra_server.domain.expressions.functions import Meter
from arcentra_server.domain.expressions.marks import marked
from arcentra_server.domain.expressions.names import Context
from arcentra_server.domain.expressions.scripts import EXPRESSION_VARIABLE, bound, script_problem, scripts_of
from arcentra_server.domain.expressions.texts import Embedded, is_template, render, render_value, texts_of


@dataclass(frozen=True, slots=True)
class Templates:
    """What of a step has to be rendered.

    `env`: only the variables that hold an expression. `args`: all arguments, None when none of them holds one. `image`:
    empty when it holds none. `scripts`: names of the arguments that a program reads as its text.
    """

    env: Mapping[str, str]
    args: Mapping[str, Any] | None
    image: str
    scripts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {"env": dict(self.env), "args": self.args, "image": self.image, "scripts": list(self.scripts)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Templates:
        return cls(document["env"], document["args"], document["image"], tuple(document["scripts"]))


@dataclass(frozen=True, slots=True)
class Rendered:
    """What takes the place of the templates of a step: `env` goes over that of the step; None: stays as it is.

    `secrets`: the names of all secrets that have a mark in it.
    """

    env: Mapping[str, str]
    args: Mapping[str, Any] | None
    image: str | None
    secrets: frozenset[str]


def templates_of(env: Mapping[str, str], uses: str, args: Mapping[str, Any], image: str) -> Templates | None:
    """Return what of a step has to be rendered, None for nothing.

    Args:
        env: What the definition says, of the job and of the step. Variables of the run do not belong here: they come
            from outside, and are never evaluated.
        uses: The plugin.
        args: Its arguments.
        image: The image it runs in, or empty.
    """
    templated = {name: text for name, text in env.items() if is_template(text)}
    has_args, has_image = is_template(args), is_template(image)
    if not (templated or has_args or has_image):
        return None
    return Templates(templated, dict(args) if has_args else None, image if has_image else "", scripts_of(uses, args))


def rendered(templates: Templates, context: Context, meter: Meter | None = None) -> Rendered:
    """Render the templates of a step: its environment first, the rest with that in force.

    Args:
        templates: The templates.
        context: What their expressions are evaluated over.
        meter: What all of them are charged to, with what else is evaluated at the same go.

    Raises:
        ExpressionError: an expression cannot be evaluated, or stands where no value can go.
    """
    meter = meter or Meter()
    outer = replace(context, env={})
    env = {name: render(text, outer, meter) for name, text in templates.env.items()}
    # A variable that holds a secret is not seen: a secret is never part of a calculation.
    visible = {name: text for name, text in env.items() if not marked([text])}
    there = {name: text for name, text in context.env.items() if name not in env}
    inner = replace(context, env={**there, **visible})
    values = _Values(inner, meter)
    args = None
    if templates.args is not None:
        args = {name: _argument(name, templates.args, templates.scripts, values) for name in templates.args}
    image = render(templates.image, inner, meter) if templates.image else None
    env |= values.env
    return Rendered(env, args, image, marked([*env.values(), *texts_of(args), image or ""]))


def _argument(name: str, args: Mapping[str, Any], scripts: Collection[str], values: _Values) -> Any:
    value = args[name]
    if name not in scripts:
        return values.of(value)
    if message := script_problem(name, args):
        raise ExpressionError(message, str(value), column=1)
    return bound(value, values.name) if isinstance(value, str) else values.of(value)


class _Values:
    """What the expressions of the arguments come to.

    `env`: the environment variables by which values reach scripts, one for each expression, however often it stands there.
    """

    def __init__(self, context: Context, meter: Meter) -> None:
        self._context = context
        self._meter = meter
        self._names: dict[str, str] = {}
        self.env: dict[str, str] = {}

    def of(self, value: Any) -> Any:
        """Return an argument with its texts rendered."""
        return render_value(value, self._context, self._meter)

    def name(self, part: Embedded) -> str:
        """Return the variable of an expression, which is evaluated when it is met first."""
        name = self._names.get(part.source)
        if name is None:
            name = self._names[part.source] = f"{EXPRESSION_VARIABLE}{len(self._names) + 1}"
            self.env[name] = part.as_text(self._context, self._meter)
        return name
