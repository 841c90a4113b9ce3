"""Durations, options and environments: tables of what is read how, and what is refused with which words."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_agent.channel import Backoff
from arcentra_agent.config import (
    ConfigError,
    check_listen,
    check_server,
    parse_labels,
    parse_size,
    parse_words,
    read_labels,
)
from arcentra_agent.credentials import Credential, CredentialError, load_credential, save_credential
from arcentra_agent.durations import parse_duration
from arcentra_agent.environment import BadEnvironmentError, base_environment, step_environment
from arcentra_agent.execution import spec_of
from arcentra_api.agent.v1 import agent_pb2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("1d1h1m1s", 90_061),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "s", "-5s", "1h 30m", "5 s", "1h-30m", "0s", "400d", "1e3s", "٣s", "5sx"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration(text)


@given(st.text(max_size=40))
def test_durations_are_total(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_duration(text) > 0


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("", {}),
        ("os=linux", {"os": "linux"}),
        ("os=linux, arch=arm64 ,", {"os": "linux", "arch": "arm64"}),
        ("example.com/gpu=", {"example.com/gpu": ""}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_labels(text: str, labels: dict[str, str]) -> None:
    assert parse_labels(text) == labels


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("os", "key=value"),
        ("=x", "key=value"),
        ("a b=c", "key=value"),
        ("a=1,a=2", "twice"),
        ("a=" + "x" * 300, "longer"),
    ],
)
def test_what_are_no_labels(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_labels(text)


@pytest.mark.parametrize("address", ["localhost", ":9090", "host:", "host:0", "host:70000", "host:http"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="--server: expected HOST:PORT"):
        check_server(address)


def test_a_step_starts_from_a_clean_environment() -> None:
    environ = {"PATH": "/bin", "HOME": "/root", "AWS_SECRET": "x", "PIP_CERT": "c", "ARCENTRA_AGENT_TOKEN": "t"}
    assert base_environment(environ) == {"PATH": "/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    passed = base_environment(environ, ["PIP_*", "ARCENTRA_*"])
    assert passed == {"PATH": "/bin", "HOME": "/root", "LANG": "C.UTF-8", "PIP_CERT": "c"}


def test_what_comes_later_wins_and_the_agents_facts_come_last() -> None:
    run = agent_pb2.StepRun(
        step_run_id="s1",
        pipeline_run_id="r1",
        attempt=2,
        env={"A": "env", "B": "env", "CI": "no"},
        secrets={"B": "secret"},
    )
    env = step_environment({"A": "base", "PATH": "/bin"}, spec_of(run), Path("/w"), Path("/s/output"))
    assert env["A"] == "env"
    assert env["B"] == "secret"
    assert env["CI"] == env["ARCENTRA"] == "true"
    assert env["ARCENTRA_STEP_RUN_ID"] == "s1"
    assert env["ARCENTRA_RUN_ID"] == "r1"
    assert env["ARCENTRA_WORKSPACE"] == "/w"
    assert env["ARCENTRA_OUTPUT"] == "/s/output"
    assert env["ARCENTRA_ATTEMPT"] == "2"


@pytest.mark.parametrize(
    ("name", "value"), [("A=B", "x"), ("", "x"), ("1A", "x"), ("A", "nul\0"), ("A", "x" * 131_072)]
)
def test_what_no_process_can_have_in_its_environment(name: str, value: str) -> None:
    with pytest.raises(BadEnvironmentError, match="env:"):
        step_environment({}, spec_of(agent_pb2.StepRun(env={name: value})), Path("/w"), Path("/s/output"))


def test_a_credential_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent.json"
    assert load_credential(path) is None
    (tmp_path / "agent.json.new").touch(mode=0o644)
    save_credential(path, Credential("a", "secret-token"))
    save_credential(path, Credential("a", "another-token"))
    assert load_credential(path) == Credential("a", "another-token")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["agent.json"]
    assert "another-token" not in repr(load_credential(path))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"agent_id": "a"}'])
def test_a_broken_credential_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "agent.json"
    path.write_text(content)
    with pytest.raises(CredentialError, match=r"agent\.json is not a credential"):
        load_credential(path)


def test_waiting_grows_to_a_limit_and_starts_again() -> None:
    backoff = Backoff(uniform=lambda _low, high: high)
    waits = [backoff.next() for _ in range(30)]
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waits[-1] == 15.0
    backoff.reset()
    assert backoff.next() == 0.1


def test_the_longest_variable_a_process_can_have() -> None:
    """The kernel takes 128 KiB with name, `=` and the zero at the end: one byte more was refused above."""
    run = agent_pb2.StepRun(env={"A": "x" * (131_072 - 3)})
    env = step_environment({"PATH": os.environ["PATH"]}, spec_of(run), Path("/w"), Path("/s/output"))
    assert subprocess.run(["true"], env=env, check=True).returncode == 0
    longer = agent_pb2.StepRun(env={"A": "x" * (131_072 - 2)})
    with pytest.raises(BadEnvironmentError, match="env: the value of A is longer than 128 KiB"):
        step_environment({}, spec_of(longer), Path("/w"), Path("/s/output"))


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("17", 17), ("17B", 17), ("4k", 4096), ("512MiB", 512 << 20), ("10 GiB", 10 << 30), ("1T", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5G", "G", "1Gb", "1iB", "many"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--spool-limit: expected a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [("", None), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:9191", ("::1", 9191)), ("localhost:80", ("localhost", 80))],
)
def test_addresses_to_listen_on(text: str, address: tuple[str, int] | None) -> None:
    assert check_listen(text) == address


@pytest.mark.parametrize("text", ["9191", ":9191", "localhost", "localhost:x", "localhost:70000"])
def test_addresses_to_listen_on_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--health-listen: expected HOST:PORT"):
        check_listen(text)


def test_command_lines() -> None:
    assert parse_words("podman --root '/a b'", "--x") == ("podman", "--root", "/a b")
    with pytest.raises(ConfigError, match="--x: not a command line"):
        parse_words("podman '", "--x")


def test_labels_of_a_file_win_and_are_named_by_it(tmp_path: Path) -> None:
    file = tmp_path / "labels"
    assert read_labels("a=1", None) == {"a": "1"}
    with pytest.raises(ConfigError, match="--labels-file: cannot read"):
        read_labels("a=1", file)
    file.write_text("# a comment\n\n a=2 \n!gpu=nvidia, or so\n")
    assert read_labels("a=1,b=3", file) == {"a": "2", "b": "3", "!gpu": "nvidia, or so"}
    file.write_text("a=1\na=2\n")
    with pytest.raises(ConfigError, match=f"{file}: 'a' is given twice"):
        read_labels("", file)
