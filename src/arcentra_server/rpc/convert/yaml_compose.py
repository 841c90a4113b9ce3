"""From the text of a document to its nodes: limited in size and depth, with the types of JSON.

The parser is libyaml's, which takes a tenth of the time of PyYAML's own. What it cannot parse is parsed by PyYAML's once
more, which says better what is wrong; a large text is not, as that takes seconds.
"""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

import yaml
from yaml._yaml import CParser

from arcentra_server.domain.errors import Fault, ValidationError
from arcentra_server.rpc.convert.yaml_nodes import (
    BOOL,
    FLOAT,
    INT,
    MAP,
    NULL,
    SEQ,
    STR,
    Mapping,
    Node,
    Place,
    PlacedFault,
    Scalar,
    Sequence,
)

LARGEST_DOCUMENT = 1024 * 1024
LARGEST_EXPLAINED = 64 * 1024
DEEPEST = 32

# By the first character: what a scalar without quotes may be besides a string.
_PLAIN: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
for _tag, _pattern, _first in (
    (NULL, r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    (BOOL, r"(?:true|True|TRUE|false|False|FALSE)\Z", list("tTfF")),
    (INT, r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z", list("-+0123456789")),
    (
        FLOAT,
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z",
        list("-+.0123456789"),
    ),
):
    for _character in _first:
        _PLAIN.setdefault(_character, []).append((_tag, re.compile(_pattern)))


class _Parser(Protocol):
    """Gives events, and None after the last."""

    def get_event(self) -> Any: ...


def compose(text: str) -> Node:
    """Return the root node of a document.

    Raises:
        ValidationError: the text is too large, empty, not YAML, too deep, or more than one document.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > LARGEST_DOCUMENT:
        raise ValidationError.at("document", f"has {size} bytes, more than {LARGEST_DOCUMENT}")
    if _is_json(text):
        # Between the tokens of JSON a tab is a space, which YAML does not know; inside its strings there is none.
        text = text.replace("\t", " ")
    try:
        root = _composed(CParser(text))
    except yaml.MarkedYAMLError as error:
        if size > LARGEST_EXPLAINED:
            raise _syntax_error(error) from error
        root = _explained(text)
    except (yaml.YAMLError, ValueError):
        # A character that YAML does not know: PyYAML looks at all of them before it parses any.
        root = _explained(text)
    if root is None:
        raise ValidationError.at("document", "is empty")
    return root


def _composed(parser: _Parser) -> Node | None:
    """Return the root node of what a parser finds, None of an empty text.

    Raises:
        YAMLError: the text is not YAML, too deep, or has more than one document.
    """
    composer = _Composer()
    while (event := parser.get_event()) is not None:
        # Nearly all are scalars.
        if type(event) is yaml.ScalarEvent and event.anchor is None and not composer.is_full:
            composer.items.append(_scalar(event))
        else:
            composer.take(event)
    return composer.roots[0] if composer.roots else None


class _Composer:
    """Puts events together, without calling itself: no text nests too deep for it.

    `items`: where the next node goes to; `is_full`: there it would be too deep.
    """

    def __init__(self) -> None:
        self.roots: list[Node] = []
        self.items = self.roots
        self.is_full = False
        # What is open, innermost last, each with the list that its items are added to.
        self._open: list[tuple[Sequence | Mapping, list[Node]]] = []
        self._anchors: dict[str, Node] = {}

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._add(_scalar(event), event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _marked(f"found undefined alias {event.anchor!r}", event)
            self.items.append(self._anchors[event.anchor])
        elif isinstance(event, yaml.DocumentStartEvent) and self.roots:
            raise _marked("expected a single document in the stream, but found another document", event)

    def _add(self, node: Node, event: Any) -> None:
        if self.is_full:
            raise _marked(f"nested deeper than {DEEPEST}", event)
        self.items.append(node)
        if event.anchor is not None:
            if event.anchor in self._anchors:
                raise _marked(f"found the anchor {event.anchor!r} twice", event)
            self._anchors[event.anchor] = node

    def _begin(self, event: Any) -> None:
        mark = event.start_mark
        # A `!` alone is as no tag at all.
        tag = event.tag if event.tag != "!" else None
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        kind, default = (Mapping, MAP) if is_mapping else (Sequence, SEQ)
        node = kind(tag or default, mark.line + 1, mark.column + 1)
        self._add(node, event)
        self.items = []
        self._open.append((node, self.items))
        self.is_full = len(self._open) >= DEEPEST

    def _end(self) -> None:
        node, items = self._open.pop()
        if isinstance(node, Mapping):
            node.pairs = list(zip(items[::2], items[1::2], strict=True))
        else:
            node.items = items
        self.items = self._open[-1][1] if self._open else self.roots
        self.is_full = False


def _scalar(event: Any) -> Scalar:
    mark, text, tag = event.start_mark, event.value, event.tag
    if tag is None or tag == "!":
        tag = STR
        if event.implicit[0] and text[:1] in _PLAIN:
            tag = next((plain for plain, pattern in _PLAIN[text[:1]] if pattern.match(text)), STR)
    return Scalar(tag, mark.line + 1, mark.column + 1, text)


def _explained(text: str) -> Node | None:
    """Return the root node by PyYAML's own parser.

    Raises:
        ValidationError: as `compose`.
    """
    parser = None
    try:
        parser = yaml.SafeLoader(text)
        return _composed(parser)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        code = f"U+{ord(text[error.position]):04X}"
        fault = PlacedFault.of(place, "", f"the character {code} is not allowed in YAML")
        raise ValidationError([fault]) from error
    except (ValueError, OverflowError) as error:
        raise ValidationError.at("", "not valid YAML: an escape or a version in it is out of range") from error
    finally:
        if parser is not None:
            parser.dispose()


def _marked(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _syntax_error(error: yaml.MarkedYAMLError) -> ValidationError:
    text = f"not valid YAML: {', '.join(part for part in (error.context, error.problem) if part)}"
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return ValidationError([Fault("", text)])
    return ValidationError([PlacedFault.of(Place(mark.line + 1, mark.column + 1), "", text)])
