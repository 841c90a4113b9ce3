"""What a step may write to $ARCENTRA_OUTPUT, and in which words it is refused."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_agent.outputs import OutputError, joined, parse_outputs, read_outputs


@pytest.mark.parametrize(
    ("content", "outputs"),
    [
        (b"", {}),
        (b"a=1", {"a": "1"}),
        (b"a=1\n\n_b-2=x = y\n", {"a": "1", "_b-2": "x = y"}),
        (b"a=1\r\nb=2\r\n", {"a": "1", "b": "2"}),
        (b"a=\n", {"a": ""}),
        (b"a=1\na=2\n", {"a": "2"}),
        (b"a=x<<y\n", {"a": "x<<y"}),
        (b"a<<EOF\nEOF\n", {"a": ""}),
        (b"a<<EOF\none\n\n  two=2\nEOF\nb=1\n", {"a": "one\n\n  two=2", "b": "1"}),
        (b"a<<EOF\r\none\r\ntwo\r\nEOF\r\n", {"a": "one\r\ntwo"}),
        (b"a<<x=y\none\nx=y\n", {"a": "one"}),
        ("name=Grüße 🎉\n".encode(), {"name": "Grüße 🎉"}),
        (b"x" * 128 + b"=long name", {"x" * 128: "long name"}),
        (b"".join(b"n%d=1\n" % number for number in range(100)), {f"n{number}": "1" for number in range(100)}),
        (b"a=" + b"x" * 65535, {"a": "x" * 65535}),
        (b"a=" + b"x" * 65535 + b"\na=1\nb=2", {"a": "1", "b": "2"}),
    ],
)
def test_outputs(content: bytes, outputs: dict[str, str]) -> None:
    assert parse_outputs(content) == outputs


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a=1\nnothing\n", "line 2: expected name=value or name<<END"),
        (b"a b=1", "line 1: expected a name of at most 128"),
        (b"=1", "line 1: expected a name"),
        (b"1a=1", "line 1: expected a name"),
        (b"\na =1", "line 2: expected a name"),
        (b"x" * 129 + b"=1", "line 1: expected a name"),
        ("ä=1".encode(), "line 1: expected a name"),
        (b"a<<\nx\n", "line 1: expected the word that ends the value"),
        (b"b=1\na<<EOF\none\n EOF\n", "line 2: the value that begins here has no end"),
        (b"a=1\nb=\xff", "line 2: is not valid UTF-8"),
        (b"a<<E\nx\n\xff\nE", "line 3: is not valid UTF-8"),
        (b"a=1\0", "line 1: contains a NUL"),
        (b"a<<E\n\0\nE", "line 2: contains a NUL"),
        (b"".join(b"n%d=1\n" % number for number in range(101)), "line 101: more than 100 outputs"),
        (b"b=1\na=" + b"x" * 65534, "line 2: more than 64 KiB"),
        (b"a=" + "ä".encode() * 32768, "line 1: more than 64 KiB"),
    ],
)
def test_what_are_no_outputs(content: bytes, words: str) -> None:
    with pytest.raises(OutputError, match=f"^outputs: {words}"):
        parse_outputs(content)


def test_what_is_wrong_is_not_quoted() -> None:
    with pytest.raises(OutputError) as caught:
        parse_outputs(b"hunter2 is the password\n")
    assert "hunter2" not in str(caught.value)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,20}", fullmatch=True)
values = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=40)


@given(st.dictionaries(names, values, max_size=9))
def test_what_is_written_is_read(outputs: dict[str, str]) -> None:
    lines = "".join(f"{name}<<-end-\n{value}\n-end-\n" for name, value in outputs.items())
    assert parse_outputs(lines.encode()) == outputs


@given(st.binary(max_size=60) | st.lists(st.sampled_from([b"a", b"=", b"<<", b"E", b"\n", b"\r"])).map(b"".join))
def test_reading_is_total(content: bytes) -> None:
    with contextlib.suppress(OutputError):
        assert all(isinstance(value, str) for value in parse_outputs(content).values())


def test_the_plugin_wins_and_counts() -> None:
    assert joined({"a": "written", "b": "written"}, {"a": "told"}) == {"a": "told", "b": "written"}
    with pytest.raises(OutputError, match="more than 100 outputs"):
        joined({f"n{number}": "" for number in range(100)}, {"commit": "c"})


def test_a_file_that_is_gone_has_no_outputs(tmp_path: Path) -> None:
    assert read_outputs(tmp_path / "output") == {}


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.symlink_to("/etc/hostname"), "cannot be opened"),
        (os.mkfifo, "is not a file any more"),
        (os.mkdir, "is not a file any more"),
        (lambda path: path.write_bytes(b"a=1\n" * (1 << 18) + b"a"), "is larger than 1 MiB"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "output")
    with pytest.raises(OutputError, match=words):
        read_outputs(tmp_path / "output")
