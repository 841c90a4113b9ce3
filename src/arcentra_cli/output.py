"""Prints answers: a table for people, the message itself as JSON or YAML for programs."""

import json
import sys
from collections.abc import Callable, Sequence

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console, RenderableType

from arcentra_cli.config import OutputFormat
from arcentra_cli.render.parts import plain
from arcentra_cli.terminal import escaped_json, is_harmless

# Rows are not folded for a reader that is no terminal: a row a line is what grep and awk want.
_UNFOLDED_WIDTH = 4096


def console() -> Console:
    """A console on stdout that never folds or cuts what a program reads."""
    width = None if for_a_person() else _UNFOLDED_WIDTH
    return Console(highlight=False, emoji=False, markup=False, width=width)


def for_a_person() -> bool:
    """Whether stdout is a terminal. Rich's own answer is yes as well where FORCE_COLOR asks a pipe for colours."""
    return sys.stdout.isatty()


def emit(output: OutputFormat, message: Message, table: Callable[[], RenderableType]) -> None:
    """Print one answer in the wanted format; `table` is built only when it is wanted."""
    if output is not OutputFormat.TABLE:
        print(serialise(output, message))
    else:
        _show(table())


def emit_each(output: OutputFormat, messages: Sequence[Message], table: Callable[[], RenderableType]) -> None:
    """Print several answers as one: JSON as a line for each, YAML as a document for each."""
    if output is OutputFormat.TABLE:
        _show(table())
        return
    texts = [serialise(output, message) for message in messages]
    if output is OutputFormat.JSON:
        texts = [json.dumps(json.loads(text)) for text in texts]
    print(("\n---\n" if output is OutputFormat.YAML else "\n").join(texts))


def _show(what: RenderableType) -> None:
    target = console()
    shown = plain(what)
    if for_a_person():
        target.print(shown)
        return
    with target.capture() as capture:
        target.print(shown)
    # Padding up to the widest row says nothing to a program.
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def serialise(output: OutputFormat, message: Message) -> str:
    """The message as JSON or YAML, with the field names of the contract and every field that is not set."""
    document = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    if output is OutputFormat.YAML:
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        return (text if is_harmless(text) else yaml.safe_dump(document, sort_keys=False)).rstrip("\n")
    return escaped_json(
        json_format.MessageToJson(
            message,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
            ensure_ascii=False,
        )
    )
