"""`arcentra secret` as a process against a small real server."""

import asyncio
import json
import os
import pty
from pathlib import Path

import pytest

from arcentra_api.admin.v1 import admin_pb2
from tests.cli.conftest import ARCENTRA, Cli
from tests.support.fake_pipeline_server import FakePipelineServer

VALUE = "planted-value"


async def test_a_secret_is_set_where_it_is_said(cli: Cli, fake: FakePipelineServer) -> None:
    demo = fake.add_pipeline("demo", "team")
    cases = {
        (): ("default", "", "of namespace default"),
        ("-n", "team"): ("team", "", "of namespace team"),
        ("--pipeline", "team/demo"): ("", demo.pipeline_id, "of pipeline team/demo"),
        ("--pipeline", "demo", "-n", "team"): ("", demo.pipeline_id, "of pipeline team/demo"),
        ("--global",): ("", "", "for every namespace"),
    }
    for options, (namespace, pipeline_id, words) in cases.items():
        fake.secrets.values.clear()
        result = await cli.run("secret", "set", "TOKEN", "--value-file", "-", *options, stdin=VALUE)
        assert (result.code, result.out, result.err) == (0, f"secret TOKEN {words} set (version 3)\n", "")
        assert fake.secrets.values == {(namespace, pipeline_id, "TOKEN"): VALUE}
        result = await cli.run("secret", "delete", "TOKEN", *options)
        assert (result.code, result.out) == (0, f"secret TOKEN {words} deleted\n")
        assert fake.secrets.values == {}


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"one line\n", "one line"),
        (b"one line\r\n", "one line"),
        (b"one line", "one line"),
        (b"two\nlines\n", "two\nlines\n"),
        (b"two\r\nlines", "two\r\nlines"),
    ],
)
async def test_the_value_comes_from_a_file(
    cli: Cli, fake: FakePipelineServer, tmp_path: Path, content: bytes, value: str
) -> None:
    (tmp_path / "value").write_bytes(content)
    result = await cli.run("secret", "set", "TOKEN", "--value-file", "value")
    assert result.code == 0, result.err
    assert list(fake.secrets.values.values()) == [value]


@pytest.mark.parametrize(
    ("content", "words"), [(b"\n", "is empty"), (b"\xff\xfe", "not UTF-8"), (b"x" * 70_000, "KiB")]
)
async def test_a_file_without_a_value_is_refused(cli: Cli, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "value").write_bytes(content)
    result = await cli.run("secret", "set", "TOKEN", "--value-file", "value")
    assert result.code == 2
    assert words in result.err


async def test_the_value_is_asked_for_and_not_shown(cli: Cli, fake: FakePipelineServer) -> None:
    keyboard, terminal = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            ARCENTRA, "secret", "set", "TOKEN",
            env=cli.env, cwd=cli.home, stdin=terminal, stdout=asyncio.subprocess.PIPE, stderr=terminal,
            start_new_session=True,
        )  # fmt: skip
        shown = await asyncio.to_thread(read_until, keyboard, b"Value of TOKEN: ")
        os.write(keyboard, f"{VALUE}\n".encode())
        out, _ = await process.communicate()
        os.write(terminal, b"<end>")
        shown += await asyncio.to_thread(read_until, keyboard, b"<end>")
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert (process.returncode, out) == (0, b"secret TOKEN of namespace default set (version 3)\n")
    assert fake.secrets.values == {("default", "", "TOKEN"): VALUE}
    assert VALUE.encode() not in shown


def read_until(keyboard: int, text: bytes) -> bytes:
    shown = b""
    while text not in shown:
        shown += os.read(keyboard, 1_000)
    return shown


async def test_without_a_terminal_the_value_is_read_from_standard_input(cli: Cli, fake: FakePipelineServer) -> None:
    result = await cli.run("secret", "set", "TOKEN", stdin=f"{VALUE}\n")
    assert result.code == 0, result.err
    assert fake.secrets.values == {("default", "", "TOKEN"): VALUE}
    result = await cli.run("secret", "set", "TOKEN")
    assert (result.code, result.err) == (2, "error: -: is empty\n")


async def test_the_value_is_no_argument_and_the_help_says_why(cli: Cli, fake: FakePipelineServer) -> None:
    for words in (["TOKEN", VALUE], [f"TOKEN={VALUE}", VALUE], ["TOKEN", "--value", VALUE]):
        assert (await cli.run("secret", "set", *words)).code == 2
    assert fake.secrets.values == {}
    text = " ".join((await cli.run("secret", "set", "--help")).out.replace("│", " ").split())
    assert "every user of this machine can see command lines while they run" in text


async def test_what_to_mind_goes_to_stderr(cli: Cli) -> None:
    result = await cli.run("secret", "set", "TOKEN", "--value-file", "-", "-o", "json", stdin="x")
    assert (result.code, result.err) == (0, "warning: the value is short\n")
    assert json.loads(result.out)["version"] == 3


async def test_names_are_listed(cli: Cli, fake: FakePipelineServer) -> None:
    assert (await cli.run("secret", "list")).out == "no secrets\n"
    demo = fake.add_pipeline("demo", "team")
    for namespace, pipeline_id in (("", ""), ("team", ""), ("team", demo.pipeline_id)):
        fake.secrets.values[namespace, pipeline_id, "TOKEN"] = VALUE
    result = await cli.run("secret", "list")
    assert [line.split()[:3] for line in result.out.splitlines()] == [
        ["NAMESPACE", "PIPELINE", "NAME"],
        ["(all)", "(all)", "TOKEN"],
        ["team", "(all)", "TOKEN"],
        ["team", demo.pipeline_id, "TOKEN"],
    ]
    assert VALUE not in result.out
    await cli.run("secret", "list", "-n", "team")
    await cli.run("secret", "list", "--pipeline", "team/demo", "-n", "team")
    asked = [request for request in fake.requests if isinstance(request, admin_pb2.ListSecretsRequest)]
    assert [(request.namespace, request.pipeline_id) for request in asked[-2:]] == [
        ("team", ""),
        ("", demo.pipeline_id),
    ]


async def test_what_is_refused_is_one_clear_line(cli: Cli) -> None:
    result = await cli.run("secret", "delete", "NOBODY")
    assert (result.code, result.err) == (2, "error: secret 'NOBODY' not found in this scope\n")
    for options in (("--global", "-n", "team"), ("--global", "--pipeline", "demo")):
        result = await cli.run("secret", "delete", "TOKEN", *options)
        assert result.code == 2
        assert "--global is for every namespace" in result.err
    result = await cli.run("secret", "set", "TOKEN", "--pipeline", "nobody", "--value-file", "-", stdin=VALUE)
    assert (result.code, result.err) == (2, "error: pipeline default/nobody not found\n")
