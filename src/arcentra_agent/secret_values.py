"""The values a step must not show, and the forms in which they are found in its output.

Masking catches accidents: a command that is echoed, a request that is dumped. It is no boundary, as whoever runs code
with a secret can write it in a form that is not among these.
"""

import base64
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

from arcentra_agent.masking import Masker

LEAST_BYTES = 6
"""Values that are shorter are not masked: they would be found everywhere, and easily guessed."""

# What may stand unescaped: everything reserved is escaped, paths stay readable, as JavaScript does it.
_URL_SAFE = ("", "/", "!'()*")
_LINE_ENDS = re.compile(r"[\r\n]+")
# What shells escape when they escape all that may mean something anywhere.
_ESCAPED = re.compile(r"[^A-Za-z0-9_.,:+@%/\-]")
# What bash (`printf %q`) puts a backslash before: of # and ~ at the begin of a text the bare form is found as well.
_ESCAPED_BY_BASH = re.compile(r"""[ "'\\|&;()<>!{}*\[\]?^$`,]|(?<=[:=])~""")
# As bash writes a text with control characters, which is $'...'.
_ANSI_C = {code: f"\\{code:03o}" for code in (*range(1, 32), 127)} | str.maketrans(
    {"\a": "\\a", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\v": "\\v", "\f": "\\f", "\r": "\\r", "\x1b": "\\E"}
    | {"'": "\\'", "\\": "\\\\"}
)
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


class SecretValues:
    """Some secrets in all their forms. It shows nothing of them when it is printed."""

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form.encode() for value in values for form in _forms(value.strip("\r\n"))}
        self._needles = frozenset(form for form in forms if len(form) >= LEAST_BYTES)

    def masker(self) -> Masker | None:
        """Return a masker for a stream of bytes; None when there is nothing to mask."""
        return Masker(self._needles) if self._needles else None

    def masked(self, text: str) -> str:
        """Return a text without the secrets."""
        if not self._needles:
            return text
        masker = Masker(self._needles)
        # Names of files may be no text (PEP 383); nothing of them gets lost.
        shown = masker.feed(text.encode("utf-8", "surrogatepass")) + masker.flush()
        return shown.decode("utf-8", "surrogatepass")


def is_maskable(value: str) -> bool:
    """Tell whether a value is long enough to be masked; an empty one hides nothing."""
    return not value or len(value.strip("\r\n").encode()) >= LEAST_BYTES


def _forms(value: str) -> Iterator[str]:
    """Yield what a value looks like in the open; short forms are for the caller to leave out."""
    if len(value.encode()) < LEAST_BYTES:
        return
    yield value
    yield from (line.strip() for line in _LINE_ENDS.split(value))
    yield from _base64_forms(value.encode())
    yield from _url_forms(value)
    yield from _json_forms(value)
    yield from _shell_forms(value)


def _base64_forms(value: bytes) -> Iterator[str]:
    """Yield what is the same in the base64 of every text that holds the value: one form for each place in a group."""
    for before in range(3):
        # Characters that also depend on the neighbours are left out, at both ends.
        first = (before * 8 + 5) // 6
        last = (before + len(value)) * 8 // 6
        padded = b"\0" * before + value
        yield base64.b64encode(padded).decode()[first:last]
        yield base64.urlsafe_b64encode(padded).decode()[first:last]


def _url_forms(value: str) -> Iterator[str]:
    escaped = [quote(value, safe=safe) for safe in _URL_SAFE]
    for form in (*escaped, quote_plus(value)):
        yield form
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), form)


def _json_forms(value: str) -> Iterator[str]:
    for only_ascii in (True, False):
        form = json.dumps(value, ensure_ascii=only_ascii)[1:-1]
        yield form
        # Encoders that write for web pages: Go's, and PHP's.
        yield form.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
        yield form.replace("/", "\\/")


def _shell_forms(value: str) -> Iterator[str]:
    """Yield the value as shells and their tracing (`set -x`) write it, without the quotes around it."""
    yield shlex.quote(value).removeprefix("'").removesuffix("'")
    yield value.replace("'", "'\\''")
    yield re.sub(r'([\\"$`])', r"\\\1", value)
    for escaped in (_ESCAPED, _ESCAPED_BY_BASH):
        yield escaped.sub(r"\\\g<0>", value)
    in_ansi_c = value.translate(_ANSI_C)
    yield in_ansi_c
    # In octal what cannot be shown; in the locale C that is all that is not ASCII.
    yield _BEYOND_ASCII.sub(lambda match: match[0] if match[0].isprintable() else _octal(match[0]), in_ansi_c)
    yield _BEYOND_ASCII.sub(lambda match: _octal(match[0]), in_ansi_c)


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode())
