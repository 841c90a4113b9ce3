"""`arcentra` as a user has it: from a file to a run, its logs, its end and its exit code."""

from __future__ import annotations

import json
from asyncio.subprocess import Process
from pathlib import Path

import pytest

from tests.agent.processes import Gate, gone
from tests.agent.stage import Repository
from tests.support.processes import Outcome, Sandbox, read_line
from tests.system.verbs import document

pytestmark = pytest.mark.slow


class User:
    """Somebody on the server's own host, where the administrator's token is found."""

    def __init__(self, sandbox: Sandbox, address: str) -> None:
        self._sandbox = sandbox
        self._env = {"ARCENTRA_SERVER": address, "ARCENTRA_DATA_DIR": str(sandbox.data_dir)}

    async def run(self, *arguments: str, **env: str) -> Outcome:
        return await self._sandbox.run("arcentra", *arguments, env={**self._env, **env})

    async def done(self, *arguments: str) -> str:
        """Run a command that has to succeed; return what it says."""
        outcome = await self.run(*arguments)
        assert (outcome.code, outcome.err) == (0, ""), outcome
        return outcome.out

    async def start(self, *arguments: str) -> Process:
        return await self._sandbox.spawn("arcentra", *arguments, env=self._env)

    async def finish(self, process: Process) -> Outcome:
        return await self._sandbox.finish(process)

    async def apply(self, path: Path, definition: str) -> str:
        path.write_text(definition)
        return await self.done("pipeline", "apply", "-f", str(path))

    async def show(self, run_id: str) -> dict[str, object]:
        shown: dict[str, object] = json.loads(await self.done("run", "show", run_id, "-o", "json"))
        return shown


@pytest.fixture(scope="module")
async def user(shared: Sandbox) -> User:
    server = await shared.serve()
    await shared.agent(server)
    return User(shared, server.grpc)


async def test_a_pipeline_is_applied_followed_and_looked_at(user: User, tmp_path: Path) -> None:
    file = tmp_path / "hello.yaml"
    assert "hello created (version 1)" in await user.apply(file, document("hello", "echo hello", "echo $WHO"))
    assert "hello unchanged" in await user.done("pipeline", "apply", "-f", str(file))
    followed = await user.run("pipeline", "trigger", "hello", "--follow", "--var", "WHO=world")
    assert followed.code == 0, followed
    assert "job/step-1 | hello" in followed.out
    assert "job/step-2 | world" in followed.out
    [run] = json.loads(await user.done("run", "list", "--pipeline", "hello", "-o", "json"))["runs"]
    run_id = run["run_id"]
    assert run["status"] == "PIPELINE_STATUS_SUCCESS"
    assert run_id in await user.done("run", "list")
    assert "step-2" in await user.done("run", "show", run_id)
    logs = await user.done("logs", run_id)
    assert logs.splitlines() == ["job/step-1 | hello", "job/step-2 | world"]
    assert (await user.run("run", "watch", run_id)).code == 0
    assert "agent" in await user.done("agent", "list")


async def test_a_run_that_fails_is_the_exit_code_of_who_follows_it(user: User, tmp_path: Path) -> None:
    await user.apply(tmp_path / "bad.yaml", document("failing", "echo before\nexit 3", "echo never"))
    followed = await user.run("pipeline", "trigger", "failing", "--follow")
    assert followed.code == 1, followed
    assert "exit code 3" in followed.out
    assert "never" not in followed.out


async def test_a_run_is_paused_resumed_and_stopped(user: User, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    script = f"echo one\nread line < {gate.path}"
    await user.apply(tmp_path / "three.yaml", document("three", script, "echo two", "echo $$\nexec sleep 600"))
    watcher = await user.start("pipeline", "trigger", "three", "--follow")
    run_id = (await read_line(watcher, " started")).split()[1]
    await read_line(watcher, "| one")
    await user.done("run", "pause", run_id, "--reason", "wait")
    await gate.open()
    await read_line(watcher, "step-1 SUCCESS")
    assert (await user.show(run_id))["status"] == "PIPELINE_STATUS_PAUSED"
    await user.done("run", "resume", run_id)
    await read_line(watcher, "| two")
    pid = (await read_line(watcher, "step-3 |")).split()[-1]
    await user.done("run", "stop", run_id, "--reason", "enough")
    outcome = await user.finish(watcher)
    assert outcome.code == 3, outcome
    await gone(int(pid))
    await user.done("run", "stop", run_id)  # what is asked for holds already


async def test_a_step_is_cancelled(user: User, tmp_path: Path) -> None:
    await user.apply(tmp_path / "long.yaml", document("long", "echo started\nexec sleep 600"))
    watcher = await user.start("pipeline", "trigger", "long", "--follow")
    run_id = (await read_line(watcher, " started")).split()[1]
    await read_line(watcher, "| started")
    run = await user.show(run_id)
    step_id = run["job_runs"][0]["step_runs"][0]["step_run_id"]  # type: ignore[index]
    await user.done("step", "cancel", step_id, "--reason", "no longer needed")
    assert (await user.finish(watcher)).code == 3
    assert "no longer needed" in await user.done("step", "show", step_id)


async def test_the_commit_of_the_trigger_is_what_is_built(user: User, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "origin")
    source = {"type": "git", "repo": str(repository.path), "branch": "main"}
    await user.apply(tmp_path / "source.yaml", document("source", "cat file", "git rev-parse HEAD", source=source))
    latest = await user.run("pipeline", "trigger", "source", "--follow")
    assert latest.code == 0, latest
    assert "job/step-1 | two" in latest.out
    older = await user.run("pipeline", "trigger", "source", "--commit", repository.first, "--follow")
    assert older.code == 0, older
    assert "job/step-1 | one" in older.out
    assert f"job/step-2 | {repository.first}" in older.out
    missing = await user.run("pipeline", "trigger", "source", "--commit", "0" * 40, "--follow")
    assert missing.code == 1
    assert "git found no" in missing.out
    assert "step-1 SKIPPED" in missing.out


async def test_a_faulty_document_is_answered_with_its_places(user: User, tmp_path: Path) -> None:
    file = tmp_path / "faulty.yaml"
    file.write_text("name: faulty\njobs:\n  - name: job\n    stepz: []\n")
    outcome = await user.run("pipeline", "apply", "-f", str(file))
    assert outcome.code == 2
    assert str(file) in outcome.err
    assert "stepz" in outcome.err
    assert "line 4" in outcome.err
    assert "column 5" in outcome.err
    assert "Traceback" not in outcome.err
    assert (await user.run("pipeline", "apply", "-f", str(tmp_path / "none.yaml"))).code == 2


async def test_who_is_not_known_hears_so(user: User) -> None:
    outcome = await user.run("run", "list", ARCENTRA_TOKEN="arc_pat_wrong")
    assert outcome.code == 6
    assert "token" in outcome.err
    assert "Traceback" not in outcome.err
    unknown = await user.run("run", "show", "01a20c8d-8ef0-7bef-9908-7f8916e7bda8")
    assert unknown.code == 2
    assert "not found" in unknown.err
