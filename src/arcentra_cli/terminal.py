"""Texts that others wrote, made harmless for a terminal: nothing moves the cursor, rings, or turns the order of letters."""

import re

REPLACEMENT = "\ufffd"
"""Stands for a character that is not shown."""

# Colours and text styles are the only escape sequences that cannot move the cursor or talk to the terminal.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # OSC and the other strings, up to their end
    r"|\x1b[ -/]*[0-~]?"  # everything else that starts with ESC
)
_STYLE = re.compile(r"\x1b\[[0-9;:]*m")
# Embeddings, overrides and isolates make a text read otherwise than it is; marks of direction alone cannot.
_REORDERING = "\u202a-\u202e\u2066-\u2069"
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]")
_MISLEADING = re.compile(rf"[\x80-\x9f{_REORDERING}]")
_IN_JSON = re.compile(rf"[\x7f-\x9f{_REORDERING}]")
_SHOWN = {
    **dict.fromkeys((*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), REPLACEMENT),
    **dict.fromkeys((*b"\t\n\v\f\r", 0x2028, 0x2029), " "),
}


def visible(text: str) -> str:
    """Return a text of one line, of the same length: a space for what ends a line, a replacement for controls."""
    return text if text.isprintable() else text.translate(_SHOWN)


def one_line(text: str) -> str:
    """Return a message as one line: without escape sequences, with single spaces, with what is left made visible."""
    return " ".join(visible(_ESCAPES.sub("", text)).split())


def without_escapes(line: str, *, keep_styles: bool) -> str:
    """Return a line of a log without anything that could steer a terminal; colours stay with `keep_styles`.

    What programs write to a terminal, such as progress, is left out. A replacement shows where C1 controls and what turns the
    order of letters stood: nobody writes those by chance.
    """

    def replacement(match: re.Match[str]) -> str:
        return match[0] if keep_styles and _STYLE.fullmatch(match[0]) else ""

    return _MISLEADING.sub(REPLACEMENT, _CONTROLS.sub("", _ESCAPES.sub(replacement, line)))


def escaped_json(document: str) -> str:
    """Return the same JSON with escapes for what JSON lets stand in texts and a terminal would follow."""
    return _IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


def is_harmless(document: str) -> bool:
    """Whether a document of several lines has nothing that `escaped_json` would escape."""
    return _IN_JSON.search(document) is None
