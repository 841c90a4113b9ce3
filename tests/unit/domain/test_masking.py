"""Masking: the same bytes however a log is cut, and no other bytes."""

import base64
import json
import random
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcentra_server.domain.masking import Matcher, cover, needles_of
from tests.support.bash_quotes import bash_quotes, hard_to_quote
from tests.support.calls import lines_of
from tests.support.dice import cases

# Two where each place is looked at; a search that stops at every byte runs more.
MOST_LINES_A_BYTE = 3
SECRET = 'p@ss w/rd\'s "<$x>" é\\'


def by_definition(needles: Iterable[bytes], text: bytes) -> bytes:
    """Mask by the definition: each byte that is part of an occurrence."""
    masked = bytearray(text)
    for needle in needles:
        for at in range(len(text) - len(needle) + 1):
            if text[at : at + len(needle)] == needle:
                masked[at : at + len(needle)] = b"*" * len(needle)
    return bytes(masked)


def in_chunks(matcher: Matcher, chunks: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """Mask chunk by chunk, as the server does; return what is stored, and what a reader is shown after each chunk."""
    stored, before, shown = bytearray(), b"", []
    for chunk in chunks:
        masked = matcher.mask(chunk)
        cut = len(stored)
        stored += chunk if masked.data is None else masked.data
        if across := matcher.seam(before, masked.head):
            stored = bytearray(cover(bytes(stored), [(cut + across[0], cut + across[1])]))
        before = matcher.joined(before, masked.tail)
        shown.append(bytes(stored[: len(stored) - matcher.open_end(before)]))
    return bytes(stored), shown


def some_letters(dice: random.Random, least: int, most: int) -> bytes:
    """Two letters only, so that needles overlap each other and themselves."""
    return bytes(dice.choices(b"ab", k=dice.randint(least, most)))


def cut_text(dice: random.Random) -> tuple[set[bytes], list[bytes]]:
    """Needles, and a text of some of them and other letters, in pieces; now and then a piece is empty."""
    needles = {some_letters(dice, 6, 12) for _ in range(dice.randint(1, 5))}
    parts = [some_letters(dice, 0, 60) if dice.random() < 0.5 else dice.choice(sorted(needles)) for _ in range(6)]
    text = b"".join(parts[: dice.randint(0, 6)])
    cuts = sorted(dice.choices(range(len(text) + 1), k=dice.randint(0, 8)))
    ends = [*cuts, len(text)]
    return needles, [text[start:end] for start, end in zip([0, *cuts], ends, strict=True)]


CUT_TEXTS = cases(cut_text)


@settings(max_examples=1_000)
@given(CUT_TEXTS)
def test_any_cut_gives_what_the_definition_says_and_readers_never_see_what_is_masked_later(
    case: tuple[set[bytes], list[bytes]],
) -> None:
    needles, chunks = case
    wanted = by_definition(needles, b"".join(chunks))
    stored, shown = in_chunks(Matcher(needles), chunks)
    assert stored == wanted
    assert all(wanted.startswith(seen) for seen in shown)


@settings(max_examples=300)
@given(CUT_TEXTS)
def test_many_needles_are_found_as_few_are(case: tuple[set[bytes], list[bytes]]) -> None:
    needles, chunks = case
    needles |= {needle + b"bab" for needle in needles}
    text = b"".join([*chunks, max(needles, key=len), *chunks])
    others = {b"%06d" % number for number in range(200)}
    assert cover(text, Matcher(needles | others).spans(text)) == by_definition(needles, text)


@given(st.binary(max_size=300), st.integers(0, 300), st.text(min_size=2, max_size=30))
def test_nothing_else_changes(text: bytes, place: int, secret: str) -> None:
    needles = needles_of([secret])
    if not needles:
        return
    planted = text[:place] + secret.encode() + text[place:]
    masked = Matcher(needles).mask(planted)
    after = planted if masked.data is None else masked.data
    assert after == by_definition(needles, planted)
    assert len(after) == len(planted)
    assert len(secret.strip().encode()) < 6 or secret.strip().encode() not in after or set(secret.strip()) == {"*"}


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text,
        lambda text: quote(text, safe=""),
        quote,
        quote_plus,
        lambda text: re.sub("%..", lambda match: match[0].lower(), quote(text, safe="")),
        json.dumps,
        lambda text: json.dumps(text, ensure_ascii=False),
        lambda text: json.dumps({"a": [text]}).replace("<", "\\u003c").replace(">", "\\u003e"),
        shlex.quote,
        lambda text: "'" + text.replace("'", "'\\''") + "'",
        lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"',
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    ],
)
def test_a_secret_is_found_in_the_forms_in_which_programs_write_it(encode: Callable[[str], str]) -> None:
    text = f"before {encode(SECRET)} after".encode()
    masked = Matcher(needles_of([SECRET])).mask(text).data
    assert masked is not None
    assert masked.strip(b"before aft\"'{}[]:=") == b"*" * len(masked.strip(b"before aft\"'{}[]:="))


@pytest.mark.parametrize("options", ["", "-x"])
def test_a_secret_is_found_where_a_shell_quotes_it(options: str) -> None:
    script = f'set +x{options.replace("-", "; set -")}; printf \'%q\\n\' "$S"; : "$S"; declare -p S'
    secret = "it's $HOME; rm -rf *"
    done = subprocess.run(["bash", "-c", script], env={"S": secret}, capture_output=True, check=True)
    masked = Matcher(needles_of([secret])).mask(done.stdout + done.stderr).data
    assert masked is not None
    assert b"HOME" not in masked


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@settings(max_examples=3, deadline=None)
@given(cases(hard_to_quote))
def test_a_secret_is_found_however_bash_quotes_it(locale: str, secrets: list[str]) -> None:
    quoted = bash_quotes(secrets, locale)
    masked = [
        cover(text, Matcher(needles_of([secret])).spans(text)) for secret, text in zip(secrets, quoted, strict=True)
    ]
    shown = {secret: text for secret, text in zip(secrets, masked, strict=True) if text.lstrip(b"\\").strip(b"$'*")}
    assert shown == {}


@settings(max_examples=300)
@given(st.binary(max_size=9), st.text(min_size=6, max_size=40), st.binary(max_size=9))
def test_of_a_secret_inside_of_base64_only_the_edges_show(before: bytes, secret: str, after: bytes) -> None:
    if len(secret.strip().encode()) < 6:
        return
    encoded = base64.b64encode(before + secret.encode() + after)
    matcher = Matcher(needles_of([secret]))
    covered = sum(end - start for start, end in matcher.spans(encoded))
    # A character at either end holds bits of its neighbour as well.
    assert covered * 6 >= len(secret.encode()) * 8 - 2 * 5
    if not after:
        assert cover(encoded, matcher.spans(encoded)).rstrip(b"=").endswith(b"*")


def test_lines_are_masked_by_themselves_and_without_the_space_around_them() -> None:
    key = "-----BEGIN KEY-----\r\n  c2VjcmV0IG9uZQ\r\n  }\r\nabc\r\n"
    text = b"> c2VjcmV0IG9uZQ <\n      }\n abc -----BEGIN KEY-----"
    masked = Matcher(needles_of([key])).mask(text).data
    assert masked == b"> ************** <\n      }\n abc *******************"


@pytest.mark.parametrize("value", ["", "short", "    \n    \n", "a b\n\n\n\n", " " * 20])
def test_short_and_blank_values_are_not_masked(value: str) -> None:
    assert needles_of([value]) == frozenset()


def test_an_end_that_may_be_the_beginning_of_a_secret_is_told() -> None:
    matcher = Matcher([b"s3cret-value", b"other-value"])
    ends = {b"": 0, b"x": 0, b"a s": 1, b"a s3cret-valu": 11, b"s3cret-value": 0, b"other-value": 0, b"other-valu": 10}
    assert {text: matcher.open_end(text) for text in ends} == ends


@pytest.mark.parametrize(
    ("needles", "text"),
    [
        ([b"aaaaaa"], b"a" * (1 << 18)),
        ([b"abcabcab"], b"abc" * (1 << 16)),
        ([b"------=" * 9], b"------=" * (1 << 15)),
        ([b"a" * 60_000 + b"b"], b"a" * (1 << 18)),
        ([b"%06d-value" % number for number in range(5_000)], b"000001-valu" * 20_000),
        ([b"%06d" % number for number in range(140)], random.Random(1).randbytes(1 << 18)),  # noqa: S311 - any noise will do
    ],
    ids=["one letter", "three letters", "a rule", "nearly all along", "many alike", "noise"],
)
def test_the_work_of_masking_is_bounded_by_the_length_of_the_text(needles: list[bytes], text: bytes) -> None:
    matcher = Matcher(needles)

    def mask() -> None:
        masked = matcher.mask(text)
        matcher.open_end(masked.tail)
        matcher.seam(masked.tail, masked.head)

    assert lines_of(mask) < MOST_LINES_A_BYTE * len(text)
