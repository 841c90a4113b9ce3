"""What a step hands on and what it must not show: outputs, secrets and workspaces, with the agent as a process."""

from pathlib import Path
from typing import Any

import pytest

from arcentra_agent import outcomes
from arcentra_agent.plugins.base import StepResult
from arcentra_agent.secret_values import SecretValues
from tests.agent.fake_kubectl import FakeKubectl
from tests.agent.processes import Gate, end_of, running_agent, script
from tests.agent.stage import Repository
from tests.support.fake_control_plane import FakeControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

SECRET = "hunter2-hunter2"


async def test_outputs_are_reported_with_the_end(plane: FakeControlPlane, tmp_path: Path) -> None:
    lines = (
        'echo "version=1.2.3" >> "$ARCENTRA_OUTPUT"',
        'printf "notes<<END\\na\\n\\nb\\nEND\\n" >> "$ARCENTRA_OUTPUT"',
    )
    async with running_agent(plane, tmp_path / "work"):
        step = plane.dispatch("step-1", args=script(*lines))
        silent = plane.dispatch("step-2", args=script("true"))
        removed = plane.dispatch("step-3", args=script('rm "$ARCENTRA_OUTPUT"'))
        await plane.until(lambda: step.end and silent.end and removed.end)
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert dict(end_of(step).outputs) == {"version": "1.2.3", "notes": "a\n\nb"}
    assert dict(end_of(silent).outputs) == dict(end_of(removed).outputs) == {}
    assert not step.reports[0].outputs
    assert not list((tmp_path / "work" / "scratch").iterdir())


async def test_a_step_that_fails_or_takes_too_long_has_outputs(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work", "--kill-grace", "0.2"):
        failed = plane.dispatch("step-1", args=script("echo a=1 >> $ARCENTRA_OUTPUT", "exit 3"))
        late = plane.dispatch("step-2", args=script("echo a=2 >> $ARCENTRA_OUTPUT", "sleep 1000"), timeout="3s")
        await plane.until(lambda: failed.end and late.end)
    assert (failed.statuses[-1], dict(end_of(failed).outputs)) == ("FAILED", {"a": "1"})
    assert (late.statuses[-1], dict(end_of(late).outputs)) == ("TIMEOUT", {"a": "2"})


async def test_wrong_outputs_fail_the_step(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work"):
        wrong = plane.dispatch("step-1", args=script("echo built", "printf 'a=1\\nb 2\\n' > $ARCENTRA_OUTPUT"))
        worse = plane.dispatch("step-2", args=script("echo nonsense > $ARCENTRA_OUTPUT", "exit 3"))
        await plane.until(lambda: wrong.end and worse.end)
    message = "outputs: line 2: expected name=value or name<<END"
    assert (wrong.statuses[-1], end_of(wrong).failure_reason) == ("FAILED", "validation")
    assert (end_of(wrong).error_message, end_of(wrong).exit_code) == (message, 2)
    assert bytes(wrong.log).decode() == f"built\n{message}; none of the outputs is kept\n"
    assert wrong.log_at_end == len(wrong.log)
    assert (end_of(worse).failure_reason, end_of(worse).exit_code) == ("script", 3)
    assert b"outputs: line 1: expected" in worse.log
    assert not end_of(wrong).outputs
    assert not end_of(worse).outputs


async def test_a_cancelled_step_is_followed_by_its_clean_up(plane: FakeControlPlane, tmp_path: Path) -> None:
    """The log and the outputs of the cancelled step arrive whole; what comes after it runs in the same workspace."""
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work", "--kill-grace", "60"):
        lines = (
            "trap 'echo cleaning; echo stopped=yes >> $ARCENTRA_OUTPUT; exit 1' TERM",
            "echo instance-7 > instance; echo instance=7 >> $ARCENTRA_OUTPUT; echo started",
            f"echo > {gate.path}",
            "sleep 1000 & wait",
        )
        step = plane.dispatch("step-1", args=script(*lines))
        await gate.passed()
        plane.cancel("step-1", "not needed any more")
        await plane.until(lambda: step.end)
        cleanup = plane.dispatch("step-2", args=script("cat instance", 'echo "$ARCENTRA_WORKSPACE"', "pwd"))
        await plane.until(lambda: cleanup.end)
    assert step.statuses == ["RUNNING", "CANCELLED"]
    assert dict(end_of(step).outputs) == {"instance": "7", "stopped": "yes"}
    assert bytes(step.log) == b"started\ncleaning\n"
    assert end_of(step).log_size == step.log_at_end == len(step.log)
    workspace = tmp_path / "work" / "workspaces" / "job-1"
    assert bytes(cleanup.log).decode() == f"instance-7\n{workspace}\n{workspace}\n"
    assert cleanup.statuses == ["RUNNING", "SUCCESS"]


async def test_secrets_are_variables_that_are_not_shown(plane: FakeControlPlane, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    work_dir = tmp_path / "work"
    lines = (
        'test "$TOKEN" = hunter2-"hunter2" && test "$URL" = "https://u:$TOKEN@h"',
        'echo "token $TOKEN, url $URL"',
        "printf hunter2-; printf hunter2; echo",
        'printf %s "user:$TOKEN" | base64',
        'set -x; : "$KEY"; set +x',
        "printf '%s\\n' \"$KEY\"",
        'echo "token=<$TOKEN>" >> $ARCENTRA_OUTPUT',
        "echo waiting",
        f"read line < {gate.path}",
        f"exec /no/such/{SECRET}",
    )
    async with running_agent(plane, work_dir, "--verbose") as agent:
        step = plane.dispatch(
            "step-1",
            args=script(*lines),
            env={"TOKEN": "overridden", "URL": f"https://u:{SECRET}@h"},
            secrets={"TOKEN": SECRET, "KEY": "first line\nsecond line\n", "PIN": "1234"},
        )
        await plane.until(lambda: b"waiting" in step.log)
        on_disk = b"".join(file.read_bytes() for file in work_dir.rglob("*.log"))
        assert on_disk == bytes(step.log)
        await gate.open()
        await plane.until(lambda: step.end)
        errors = agent.errors
    log = bytes(step.log).decode()
    assert log.startswith("the value of the secret PIN is shorter than 6 bytes and is not masked\ntoken ***, url https")
    assert "url https://u:***@h\n***\n" in log
    assert "/no/such/***" in log
    assert dict(end_of(step).outputs) == {"token": "<***>"}
    everything = log + errors + end_of(step).error_message
    for text in ("hunter2", "first line", "second line"):
        assert text not in everything, text


async def test_a_secret_in_a_message_is_masked(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work"):
        step = plane.dispatch("step-1", args={"command": [f"/no/{SECRET}"]}, secrets={"TOKEN": SECRET})
        name = plane.dispatch("step-2", args=script(f"echo {SECRET}=1 > $ARCENTRA_OUTPUT"), secrets={"TOKEN": SECRET})
        await plane.until(lambda: step.end and name.end)
    assert end_of(step).error_message == "no such program or directory: /no/***"
    assert end_of(name).failure_reason == "validation"
    assert end_of(name).error_message == "outputs: the name of an output contains a secret"


def test_what_the_agent_logs_of_its_own_fault_is_masked() -> None:
    outcome = outcomes.outcome_of_error(RuntimeError(f"cannot digest {SECRET}")).without(SecretValues([SECRET]))
    assert (outcome.reason, outcome.message) == ("internal", "the agent failed with RuntimeError")
    assert "cannot digest ***" in outcome.traceback
    told = outcomes.outcome_of(StepResult(1, SECRET, {"m": SECRET}, {"o": SECRET})).without(SecretValues([SECRET]))
    assert (told.message, told.metrics, told.outputs) == ("***", {"m": "***"}, {"o": "***"})


async def test_secret_arguments_are_masked_by_their_names(plane: FakeControlPlane, tmp_path: Path) -> None:
    kubectl = FakeKubectl(tmp_path / "bin")
    kubectl.answer("apply", f"it says - token: {SECRET}\n")
    async with running_agent(plane, tmp_path / "work"):
        made = plane.dispatch("step-1", args=script("touch web.yaml"))
        await plane.until(lambda: made.end)
        args = {"manifests": ["web.yaml"], "kubeconfig": f"users:\n- token: {SECRET}\n"}
        step = plane.dispatch(
            "step-2", "k8s", args=args, env={"PATH": f"{kubectl.folder}:/usr/local/bin:/usr/bin:/bin"}
        )
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert bytes(step.log) == b"it says ***\n"


@pytest.mark.parametrize(
    ("uses", "args", "env", "reason", "words"),
    [
        ("k8s", {"manifests": ["made"]}, {"PATH": "/nowhere"}, "plugin_missing", "this agent has no kubectl"),
        ("k8s", {"manifests": ["not-made"]}, {}, "validation", "there is no not-made in the workspace"),
        ("s3", {"bucket": "b", "path": "../up"}, {}, "validation", "args.path: expected a path inside the workspace"),
        ("git", {"repo": "https://user:pw@h/r"}, {}, "validation", "args.repo: must hold no user name or password"),
    ],
)
async def test_how_targets_and_sources_fail(
    plane: FakeControlPlane,
    tmp_path: Path,
    uses: str,
    args: dict[str, Any],
    env: dict[str, str],
    reason: str,
    words: str,
) -> None:
    async with running_agent(plane, tmp_path / "work"):
        made = plane.dispatch("step-1", args=script("touch made"))
        await plane.until(lambda: made.end)
        step = plane.dispatch("step-2", uses, args=args, env=env)
        await plane.until(lambda: step.end)
    assert (step.statuses[-1], end_of(step).failure_reason) == ("FAILED", reason)
    assert words in end_of(step).error_message


async def test_a_source_tells_its_commit(plane: FakeControlPlane, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "origin")
    async with running_agent(plane, tmp_path / "work"):
        source = plane.dispatch("step-1", "git", args={"repo": str(repository.path), "branch": "topic"})
        await plane.until(lambda: source.end)
        step = plane.dispatch("step-2", args=script("git rev-parse HEAD"))
        await plane.until(lambda: step.end)
    assert dict(end_of(source).outputs) == {"commit": repository.topic, "branch": "topic"}
    assert bytes(step.log).decode() == f"{repository.topic}\n"


async def test_artifacts_that_are_not_kept_are_told(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work"):
        artifacts = [{"name": "report", "path": "report.xml"}, {"name": "wheel", "path": "dist/*"}]
        step = plane.dispatch("step-1", args=script("echo done"), artifacts=artifacts)
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert bytes(step.log) == b"artifacts are not kept by this version of the agent: report, wheel\ndone\n"
