"""Steps in containers, by a real podman."""

import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from arcentra_agent.environment import BadEnvironmentError
from arcentra_agent.plugins.base import PluginMissingError
from arcentra_agent.step_host.container import _variables, find_runtime
from arcentra_api.agent.v1 import agent_pb2
from tests.agent.processes import AgentProcess, Gate, end_of, gone, host_pids, running_agent, script
from tests.support.fake_control_plane import FakeControlPlane
from tests.support.podman import IMAGE, Podman, make_podman

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SECRET = "hunter2 hunter2\nof two lines"


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    # Not below the directory of the tests: podman takes no longer path than one of 50 characters.
    with tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True) as root:
        yield make_podman(Path(root))


@asynccontextmanager
async def _agent(plane: FakeControlPlane, tmp_path: Path, podman: Podman) -> AsyncIterator[AgentProcess]:
    options = f"{podman.options} --volume={tmp_path}:{tmp_path}"
    runtime = ("--container-runtime", podman.command_line, "--container-options", options)
    async with running_agent(plane, tmp_path / "work", *runtime, "--kill-grace", "0.2") as agent:
        yield agent


async def test_a_script_runs_in_its_image_and_in_its_workspace(
    plane: FakeControlPlane, tmp_path: Path, podman: Podman
) -> None:
    ready, gate = Gate(tmp_path / "ready"), Gate(tmp_path / "gate")
    async with _agent(plane, tmp_path, podman) as agent:
        step = plane.dispatch(
            "step-1",
            args=script(
                'test "$(pwd)" = "$ARCENTRA_WORKSPACE" && echo in its workspace',
                "test -e /bin/busybox && test ! -e /usr && echo in its image",
                'echo "$GREETING $PATH $CI"; echo "$TOKEN"',
                "mkdir -p made/below && touch made/below/file",
                "echo answer=42 > $ARCENTRA_OUTPUT",
                f"echo > {ready.path}; read line < {gate.path}",
            ),
            image=IMAGE,
            env={"GREETING": "hello", "PATH": "/bin:/of/the/step"},
            secrets={"TOKEN": SECRET},
        )
        await ready.passed()
        assert not _seen_by_all(SECRET.split("\n", maxsplit=1)[0])
        await gate.open()
        await plane.until(lambda: step.end)
        after = plane.dispatch("step-2", args={"command": "ls made/below; rm -r made"})
        await plane.until(lambda: after.end)
        assert podman.containers() == []
        plane.send(agent_pb2.ConnectResponse(released_job_ids=["job-1"]))
        await plane.heartbeat(lambda beat: not beat.workspace_job_ids)
        assert not list((agent.work_dir / "workspaces").iterdir())
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert bytes(step.log) == b"in its workspace\nin its image\nhello /bin:/of/the/step true\n***\n"
    assert dict(end_of(step).outputs) == {"answer": "42"}
    assert bytes(after.log) == b"file\n"


@pytest.mark.parametrize(
    ("fields", "reason", "code", "words"),
    [
        ({"args": {"script": "exit 3"}}, "script", 3, "exit code 3"),
        ({"args": {"script": "exit 125"}}, "script", 125, "exit code 125"),
        ({"args": {"script": "nosuch"}}, "script", 127, "a program is not there"),
        # What the init process of podman answers; the log has what was not found.
        ({"args": {"script": "true", "shell": "bash"}}, "script", 1, "exit code 1"),
        (
            {"args": {"script": "true"}, "image": "localhost:1/none"},
            "image_pull",
            125,
            "localhost:1/none cannot be pulled",
        ),
        ({"args": {"script": "true"}, "image": "--privileged"}, "validation", 2, "image: expected the name"),
        ({"args": {"script": "true"}, "env": {"HOME": "/a\n/b"}}, "validation", 2, "HOME has to be one line"),
        ({"uses": "git", "args": {"repo": "x"}}, "validation", 2, "only steps that use shell"),
        ({"args": {"script": "exec sleep 600"}, "timeout": "1s"}, "timeout", 124, "limit of 1s"),
    ],
)
async def test_how_steps_in_containers_fail(
    plane: FakeControlPlane,
    tmp_path: Path,
    podman: Podman,
    fields: dict[str, Any],
    reason: str,
    code: int,
    words: str,
) -> None:
    async with _agent(plane, tmp_path, podman):
        step = plane.dispatch("step-1", **{"image": IMAGE, **fields})
        await plane.until(lambda: step.end)
        assert podman.containers() == []
    end = end_of(step)
    assert (end.failure_reason, end.exit_code) == (reason, code), end.error_message
    assert words in end.error_message


async def test_a_container_that_cannot_be_created(plane: FakeControlPlane, tmp_path: Path, podman: Podman) -> None:
    options = ("--container-runtime", podman.command_line, "--container-options", "--volume=/nonsense:/x")
    async with running_agent(plane, tmp_path / "work", *options):
        step = plane.dispatch("step-1", args=script("true"), image=IMAGE)
        await plane.until(lambda: step.end)
    assert (end_of(step).failure_reason, end_of(step).exit_code) == ("internal", 125)
    assert b"nonsense" in step.log


async def test_a_cancelled_container_is_gone(plane: FakeControlPlane, tmp_path: Path, podman: Podman) -> None:
    ready = Gate(tmp_path / "ready")
    async with _agent(plane, tmp_path, podman):
        step = plane.dispatch(
            "step-1", args=script("trap '' TERM", f"echo > {ready.path}", "while :; do sleep 1; done"), image=IMAGE
        )
        await ready.passed()
        assert podman.containers() == ["arcentra-step-1"]
        plane.cancel("step-1")
        await plane.until(lambda: step.end)
        assert podman.containers() == []
    assert step.statuses == ["RUNNING", "CANCELLED"]


async def test_a_container_ends_with_its_killed_host(plane: FakeControlPlane, tmp_path: Path, podman: Podman) -> None:
    ready = Gate(tmp_path / "ready")
    async with _agent(plane, tmp_path, podman) as agent:
        step = plane.dispatch("step-1", args=script(f"echo > {ready.path}", "exec sleep 1000"), image=IMAGE)
        await ready.passed()
        pid = json.loads(podman("inspect", "arcentra-step-1"))[0]["State"]["Pid"]
        (host,) = host_pids(agent.work_dir)
        os.kill(host, signal.SIGKILL)
        await gone(pid)
        await plane.until(lambda: step.end)
        assert podman.containers() == []
    assert end_of(step).failure_reason == "agent_lost"


@pytest.mark.parametrize(
    ("command_line", "words"), [((), "neither podman nor docker: install one"), (("nosuch", "-x"), "no program nosuch")]
)
def test_without_a_runtime_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: tuple[str, ...], words: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PluginMissingError, match=words):
        find_runtime(command_line, "alpine")


def test_the_runtime_that_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("docker", "podman"):
        (tmp_path / name).touch(0o755)
        assert find_runtime((), "alpine") == (name,)
    assert find_runtime(("docker", "--context", "x"), "alpine") == ("docker", "--context", "x")


@pytest.mark.parametrize(
    "name",
    ["GOOGLE_CREDENTIALS", "GOOD_NAME", "GO_VERSION", "DOCKER_AUTH_CONFIG", "REGISTRY_PASSWORD", "CONTAINER_NAMES"],
)
async def test_a_variable_that_no_runtime_knows_may_have_several_lines(tmp_path: Path, name: str) -> None:
    value = "{\n}" * 1000
    async with _variables({name: value}, tmp_path) as (options, env):
        assert (options, dict(env)) == ([f"--env={name}"], {name: value})


@pytest.mark.parametrize(
    "name", ["GODEBUG", "DOCKER_HOST", "CONTAINERS_CONF", "CONTAINER_HOST", "https_proxy", "NO_PROXY"]
)
async def test_a_variable_that_changes_how_a_runtime_works_does_not_reach_it(tmp_path: Path, name: str) -> None:
    async with _variables({name: "x"}, tmp_path) as (options, env):
        assert not env
        assert options == [f"--env-file={tmp_path / 'env'}"]
    with pytest.raises(BadEnvironmentError, match="one line"):
        async with _variables({name: "x\ny"}, tmp_path):
            pass


def _seen_by_all(text: str) -> list[str]:
    """Return the command lines of this machine that have the text in them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if text in line:
                found.append(line)
    return found
