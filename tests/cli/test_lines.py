"""A log in any pieces becomes the same whole lines."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from arcentra_api.stream.v1.stream_pb2 import StreamStepRunLogsResponse
from arcentra_cli.follow.lines import LONGEST_LINE, LogReader
from arcentra_cli.follow.screen import prefixed
from arcentra_cli.terminal import without_escapes


def read(*messages: StreamStepRunLogsResponse) -> list[str]:
    reader = LogReader()
    lines = [line for message in messages for line in reader.take(message)]
    return [*lines, *reader.end()]


def at(offset: int, data: bytes = b"", lost: int = 0) -> StreamStepRunLogsResponse:
    return StreamStepRunLogsResponse(offset=offset, data=data, lost_bytes=lost)


@given(st.text(st.characters(exclude_characters="\r", codec="utf-8"), max_size=80), st.lists(st.integers(0, 200)))
def test_pieces_do_not_matter(text: str, cuts: list[int]) -> None:
    data = text.encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [at(start, data[start:end]) for start, end in itertools.pairwise(places)]
    *whole, rest = text.split("\n")
    assert read(*pieces) == ([*whole, rest] if rest else whole)


@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_a_stream_opened_again_repeats_and_loses_nothing(data: bytes, cut: int, back: int) -> None:
    cut = min(cut, len(data))
    start = max(0, cut - back)
    again = LogReader()
    raw = again.take_raw(at(0, data[:cut])) + again.take_raw(at(start, data[start:]))
    assert raw == data
    assert again.offset == len(data)
    assert read(at(0, data[:cut]), at(start, data[start:])) == read(at(0, data))


def test_a_gap_is_a_line_of_its_own_and_moves_the_offset() -> None:
    reader = LogReader()
    assert reader.take(at(0, b"one\ntwo")) == ["one"]
    assert reader.take(at(7, lost=100)) == ["two", "[100 bytes of log lost]"]
    assert reader.take(at(107, b"three\n")) == ["three"]
    assert reader.offset == 113


def test_a_gap_nobody_told_of_is_seen() -> None:
    assert read(at(0, b"one\n"), at(10, b"two\n")) == ["one", "[6 bytes of log lost]", "two"]


def test_a_character_cut_in_two_is_whole() -> None:
    data = "müde\n".encode()
    assert read(at(0, data[:2]), at(2, data[2:])) == ["müde"]


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert read(at(0, b"a\xff\n")) == ["a\ufffd"]


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    reader = LogReader()
    lines = reader.take(at(0, b"x" * (3 * LONGEST_LINE)))
    assert [len(line) for line in lines] == [LONGEST_LINE, LONGEST_LINE]
    assert [len(line) for line in reader.end()] == [LONGEST_LINE]


def test_carriage_returns_overwrite() -> None:
    assert read(at(0, b"10%\r50%\r100%\r\nend\r\n")) == ["100%", "end"]


def test_only_styles_survive_of_escape_sequences() -> None:
    line = "\x1b[31mred\x1b[0m \x1b[2J\x1b]52;c;aGk=\x07\x1b]0;title\x1b\\\x1bcend\x07"
    assert without_escapes(line, keep_styles=True) == "\x1b[31mred\x1b[0m end"
    assert without_escapes(line, keep_styles=False) == "red end"


def test_every_line_has_its_prefix() -> None:
    assert (
        prefixed("build/compile", ["a", "", "\x1b[1mb"]) == "build/compile | a\nbuild/compile | \nbuild/compile | b\n"
    )
