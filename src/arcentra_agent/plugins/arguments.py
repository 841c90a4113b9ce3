"""Reading the `args` of a step: which argument is wrong and what was expected, in one sentence."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from arcentra_agent.plugins.base import Args


class ArgumentError(ValueError):
    """An action or argument is wrong; the text is for the author of the pipeline."""


def check_known(args: Args, known: Iterable[str]) -> None:
    """Refuse arguments that nothing reads, a misspelt name above all."""
    names = sorted(known)
    for name in args:
        if name not in names:
            raise ArgumentError(f"args.{name}: unknown argument; known are {', '.join(names)}")


def text(args: Args, name: str, default: str = "") -> str:
    """Return a text argument; an absent one is the default."""
    value = args.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise ArgumentError(f"args.{name}: expected a text, got {describe(value)}")
    if "\0" in value:
        raise ArgumentError(f"args.{name}: contains a NUL character")
    return value


def required_text(args: Args, name: str) -> str:
    """Return a text argument that must be there and not blank."""
    value = text(args, name)
    if not value.strip():
        raise ArgumentError(
            f"args.{name}: expected a text, got {'nothing' if args.get(name) is None else 'a blank one'}"
        )
    return value


def git_name(args: Args, name: str, *, required: bool = False) -> str:
    """Return a text that goes to git as a name: never one git would read as an option."""
    value = required_text(args, name) if required else text(args, name)
    if value.startswith("-"):
        raise ArgumentError(f"args.{name}: must not begin with '-', got {value[:64]!r}")
    return value


def whole_number(args: Args, name: str, default: int = 0) -> int:
    """Return a whole number that is not negative (numbers on the wire are floating)."""
    value = args.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer() or value < 0:
        raise ArgumentError(f"args.{name}: expected a whole number of 0 or more, got {describe(value)}")
    return int(value)


def flag(args: Args, name: str) -> bool:
    """Return a truth value; an absent one is false."""
    value = args.get(name, False)
    if not isinstance(value, bool):
        raise ArgumentError(f"args.{name}: expected true or false, got {describe(value)}")
    return value


def inside(args: Args, name: str, root: Path) -> Path:
    """Return a directory under `root` named by a relative path; absent means `root` itself."""
    value = text(args, name, ".")
    path = PurePosixPath(value or ".")
    if path.is_absolute() or ".." in path.parts:
        raise ArgumentError(f"args.{name}: expected a path inside the workspace, got {value[:128]!r}")
    return root / path


def describe(value: object) -> str:
    """Name a value by its kind, never by its content: it may be a secret."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"the number {value:g}"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object"
