"""Masking: the same text however the stream is cut, nothing of a secret in it, and everything else as it was."""

import base64
import itertools
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcentra_agent.masking import MASK, Masker
from arcentra_agent.secret_values import SecretValues, is_maskable
from tests.support.bash_quotes import bash_quotes, hard_to_quote
from tests.support.dice import cases

# Few letters make needles overlap each other and themselves. No mask can be one: `*` is in none of them.
needles = st.lists(st.text("ab", min_size=1, max_size=12).map(str.encode), min_size=1, max_size=4)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A text and what to mask in it: the text is put together from parts of the needles, mostly."""
    wanted = draw(needles)
    part = st.sampled_from(wanted).flatmap(lambda needle: st.slices(len(needle)).map(lambda part: needle[part]))
    pieces = draw(st.lists(part | st.sampled_from(wanted) | st.text("abn", max_size=3).map(str.encode), max_size=9))
    return b"".join(pieces), wanted


def reference(text: bytes, needles: Iterable[bytes], end: int | None = None) -> bytes:
    """Mark each byte of each occurrence, then write `***` for each connected piece: slow, and plainly right."""
    marked = [False] * len(text)
    for needle in needles:
        for at in range(len(text) - len(needle) + 1):
            if text[at : at + len(needle)] == needle:
                marked[at : at + len(needle)] = [True] * len(needle)
    shown = bytearray()
    for at, byte in enumerate(text[:end]):
        if not marked[at]:
            shown.append(byte)
        elif at == 0 or not marked[at - 1]:
            shown += MASK
    return bytes(shown)


def cut(text: bytes, places: Iterable[int]) -> list[bytes]:
    ends = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    return [text[start:end] for start, end in itertools.pairwise(ends)]


def masked(pieces: Iterable[bytes], needles: Iterable[bytes]) -> bytes:
    masker = Masker(needles)
    return b"".join([masker.feed(piece) for piece in pieces]) + masker.flush()


@given(stream=streams(), places=st.lists(st.integers(0, 60)))
def test_any_cuts_give_the_same_text(stream: tuple[bytes, list[bytes]], places: list[int]) -> None:
    text, needles = stream
    assert masked(cut(text, places), needles) == reference(text, needles)


@given(stream=streams())
def test_byte_by_byte_gives_the_same_text(stream: tuple[bytes, list[bytes]]) -> None:
    text, needles = stream
    assert masked((text[at : at + 1] for at in range(len(text))), needles) == reference(text, needles)


@given(stream=streams(), places=st.lists(st.integers(0, 60)), pauses=st.sets(st.integers(0, 9)))
def test_no_needle_survives_wherever_the_stream_pauses(
    stream: tuple[bytes, list[bytes]], places: list[int], pauses: set[int]
) -> None:
    """After a pause, everything before it was given out; of a needle that it interrupted, at least the end is masked."""
    text, needles = stream
    masker, shown = Masker(needles), b""
    for number, piece in enumerate(cut(text, places)):
        shown += masker.feed(piece)
        if number in pauses:
            shown += masker.flush()
            assert not masker.is_holding
    shown += masker.flush()
    assert not any(needle in shown for needle in needles)
    pattern = b".+".join(re.escape(part) for part in shown.split(MASK))
    assert re.fullmatch(pattern, text, re.DOTALL), "each byte is shown once or masked"


@given(stream=streams())
def test_only_the_beginning_of_a_needle_is_kept_back(stream: tuple[bytes, list[bytes]]) -> None:
    text, needles = stream
    beginnings = (at for at in range(len(text)) if any(is_beginning(text[at:], needle) for needle in needles))
    assert Masker(needles).feed(text) == reference(text, needles, next(beginnings, len(text)))


def is_beginning(end: bytes, needle: bytes) -> bool:
    return needle.startswith(end) and needle != end


def test_a_needle_that_a_pause_interrupts_is_masked_from_there_on() -> None:
    masker = Masker([b"secret-value"])
    assert masker.feed(b"a secret-") == b"a "
    assert masker.is_holding
    assert masker.flush() == b"secret-"
    assert masker.feed(b"val") == b""
    assert masker.feed(b"ue, and secret-value\n") == b"***, and ***\n"
    assert not masker.is_holding


def test_the_longest_beginning_of_many_is_kept_back() -> None:
    masker = Masker(b"a" * count + b"b" for count in range(7, 30))
    assert masker.feed(b"x" + b"a" * 28) == b"x"
    assert masker.feed(b"ab") == b"***"


def test_a_line_without_secrets_passes_at_once() -> None:
    masker = Masker([b"secret-value", b"another\nvalue"])
    assert masker.feed(b"hello world\n") == b"hello world\n"
    assert not masker.is_holding


values = st.text(st.characters(codec="utf-8", exclude_characters="*~"), min_size=2, max_size=30).filter(
    lambda value: is_maskable(value) and value == value.strip("\r\n")
)
around = st.text("~", max_size=9)


FORMS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "path": quote,
    "component": lambda value: quote(value, safe=""),
    "lower case": lambda value: re.sub("%..", lambda escape: escape[0].lower(), quote(value, safe="")),
    "form": quote_plus,
    "json": lambda value: json.dumps(value)[1:-1],
    "json in UTF-8": lambda value: json.dumps(value, ensure_ascii=False)[1:-1],
    "shell": lambda value: shlex.quote(value).removeprefix("'").removesuffix("'"),
    "traced shell": lambda value: value.replace("'", "'\\''"),
    "in double quotes": lambda value: re.sub(r'([\\"$`])', r"\\\1", value),
}


@pytest.mark.parametrize("form", FORMS)
@given(value=values, before=around, after=around)
def test_every_form_of_a_value_is_found(form: str, value: str, before: str, after: str) -> None:
    written = FORMS[form](value)
    assert SecretValues([value]).masked(f"{before}{written}{after}").replace("***", "", 1) == before + after


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@settings(max_examples=3, deadline=None)
@given(cases(hard_to_quote))
def test_a_value_is_found_however_bash_quotes_it(locale: str, secrets: list[str]) -> None:
    quoted = [text.decode() for text in bash_quotes(secrets, locale)]
    masked = {secret: SecretValues([secret]).masked(text) for secret, text in zip(secrets, quoted, strict=True)}
    assert {secret: text for secret, text in masked.items() if text.lstrip("\\").strip("$'*")} == {}


@given(value=values, before=st.binary(max_size=5), after=st.binary(max_size=5))
def test_base64_hides_a_value_in_every_place(value: str, before: bytes, after: bytes) -> None:
    """What is left of the encoded text is its neighbours', but for a character at each end that is theirs as well."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        shown = SecretValues([value]).masked(encode(before + value.encode() + after).decode())
        left, _, rest = shown.partition("***")
        assert "***" in shown
        assert len(left) <= math.ceil(len(before) * 8 / 6)
        assert len(rest.rpartition("***")[2].rstrip("=")) <= math.ceil(len(after) * 8 / 6) + 1


@given(text=st.text("abcdef \n", max_size=50))
def test_a_text_without_secrets_is_not_changed(text: str) -> None:
    assert SecretValues(["hunter2-hunter2", "line one\nline two"]).masked(text) == text
    assert SecretValues([]).masked(text) == text


KEY = "-----BEGIN KEY-----\nMIIEowIBAAKCAQEA\n  0123456789abcdef  \nxy\n-----END KEY-----\n"


@pytest.mark.parametrize(
    ("values", "text", "shown"),
    [
        (["hunter2"], "the password is hunter2, hunter2!", "the password is ***, ***!"),
        (["hunter2\n"], "hunter2", "***"),
        (["short"], "short", "short"),
        (["sixsix"], "sixsix", "***"),
        (["äöü"], "äöü", "***"),
        ([""], "anything", "anything"),
        ([KEY], KEY, "***\n"),
        ([KEY], "> MIIEowIBAAKCAQEA\n>0123456789abcdef<\nxy", "> ***\n>***<\nxy"),
        ([KEY], json.dumps({"key": KEY}), '{"key": "***\\n"}'),
        (["hunter2"], base64.b64encode(b"user:hunter2").decode(), "dXNlcjp***"),
        (["pass word&more"], "https://h/?p=pass%20word%26more&q=pass+word%26more", "https://h/?p=***&q=***"),
        (["a/b?c d"], "x%2fb a%2Fb%3Fc%20d a%2fb%3fc%20d", "x%2fb *** ***"),
        (["it's a secret"], "+ echo 'it'\\''s a secret' 'it'\"'\"'s a secret'", "+ echo '***' '***'"),
        (["one two$three"], 'one\\ two\\$three "one two\\$three"', '*** "***"'),
        (["one\ntwo'three"], "x=$'one\\ntwo\\'three'", "x=$'***'"),
        (["<a>&</a>"], '"\\u003ca\\u003e\\u0026\\u003c/a\\u003e" "<a>&<\\/a>"', '"***" "***"'),
        (["first-secret", "secret-second"], "first-secret-second", "***"),
        (["secret"], "secretsecret", "***"),
    ],
)
def test_what_is_shown(values: list[str], text: str, shown: str) -> None:
    assert SecretValues(values).masked(text) == shown


def test_secrets_do_not_show_themselves() -> None:
    secrets = SecretValues(["hunter2-hunter2"])
    assert "hunter2" not in f"{secrets} {secrets!r} {secrets.masker()!r}"


def test_nothing_to_mask_needs_no_masker() -> None:
    assert SecretValues(["", "short"]).masker() is None
    assert SecretValues(["sixsix"]).masker() is not None


def test_a_name_of_a_file_that_is_no_text_survives() -> None:
    assert SecretValues(["sixsix"]).masked("\udcff/sixsix") == "\udcff/***"
