"""The plugin k8s: what kubectl is told, with which configuration, and what becomes of its answers."""

from pathlib import Path

import pytest

from arcentra_agent.plugins import k8s
from arcentra_agent.plugins.arguments import ArgumentError
from arcentra_agent.plugins.base import Args, PluginMissingError, StepResult
from tests.agent.fake_kubectl import FakeKubectl
from tests.agent.stage import Stage

KUBECONFIG = "apiVersion: v1\nkind: Config\nusers:\n- user: {token: hunter2-hunter2}\n"


@pytest.fixture
def kubectl(stage: Stage, tmp_path: Path) -> FakeKubectl:
    fake = FakeKubectl(tmp_path / "bin")
    stage.env["PATH"] = f"{fake.folder}:{stage.env['PATH']}"
    (stage.workspace / "deploy").mkdir()
    for name in ("web.yaml", "job.yaml"):
        (stage.workspace / "deploy" / name).write_text("kind: Whatever\n")
    return fake


@pytest.mark.slow
async def test_manifests_are_applied(stage: Stage, kubectl: FakeKubectl) -> None:
    args = {
        "manifests": ["deploy/web.yaml", "deploy"],
        "context": "prod",
        "namespace": "shop",
        "kubeconfig": KUBECONFIG,
    }
    assert await stage.run("k8s", args) == StepResult(0)
    folder = stage.workspace / "deploy"
    options = ["--context=prod", "--namespace=shop"]
    assert kubectl.calls == [
        {
            "argv": [*options, "apply", f"--filename={folder / 'web.yaml'}", f"--filename={folder}"],
            "kubeconfig": KUBECONFIG,
            "mode": "0o600",
        }
    ]
    assert stage.log.read_text() == "deployment.apps/web created\n"
    assert not list(stage.scratch.iterdir())


@pytest.mark.slow
async def test_globs_are_matched_in_order(stage: Stage, kubectl: FakeKubectl) -> None:
    (stage.workspace / "deploy" / "notes.txt").touch()
    assert await stage.run("k8s", {"manifests": ["deploy/*.yaml"]}) == StepResult(0)
    files = [f"--filename={stage.workspace / 'deploy' / name}" for name in ("job.yaml", "web.yaml")]
    assert kubectl.argvs == [["apply", *files]]


@pytest.mark.slow
async def test_rollouts_are_waited_for(stage: Stage, kubectl: FakeKubectl) -> None:
    rows = ["Service      shop   web", "Deployment   shop   web", "Namespace <none> shop", "StatefulSet  data   db"]
    rows += rows
    kubectl.answer("get", "\n".join(rows) + "\n")
    kubectl.answer("rollout", "successfully rolled out\n")
    assert await stage.run("k8s", {"manifests": "deploy/web.yaml", "wait": True}) == StepResult(0)
    file = f"--filename={stage.workspace / 'deploy' / 'web.yaml'}"
    columns = "custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name"
    assert kubectl.argvs == [
        ["apply", file],
        ["get", file, "--no-headers", "-o", columns],
        ["--namespace=shop", "rollout", "status", "deployment/web"],
        ["--namespace=data", "rollout", "status", "statefulset/db"],
    ]
    assert {call["kubeconfig"] for call in kubectl.calls} == {""}
    assert stage.log.read_text().count("successfully rolled out") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "code", "message"),
    [
        ("apply", 3, "kubectl could not apply the manifests; the log says why"),
        ("get", 1, "kubectl could not find what it applied; the log says why"),
        ("rollout", 4, "the rollout of deployment/web did not succeed; the log says why"),
    ],
)
async def test_what_kubectl_cannot_do_fails_the_step(
    stage: Stage, kubectl: FakeKubectl, verb: str, code: int, message: str
) -> None:
    kubectl.answer("get", "Deployment shop web\n")
    kubectl.answer(verb, "no such luck\n", code)
    result = await stage.run("k8s", {"manifests": ["deploy"], "wait": True, "kubeconfig": KUBECONFIG})
    assert result == StepResult(code, message)
    assert verb in str(kubectl.argvs[-1])
    assert not list(stage.scratch.iterdir())


async def test_a_host_without_kubectl_says_so(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (stage.workspace / "web.yaml").touch()
    stage.env["PATH"] = str(tmp_path / "empty")
    with pytest.raises(PluginMissingError, match="this agent has no kubectl: install it on its host"):
        await stage.run("k8s", {"manifests": ["web.yaml"]})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.yaml", r"args\.manifests: there is no missing\.yaml in the workspace"),
        ("outside.yaml", r"args\.manifests: outside\.yaml leads out of the workspace"),
        ("loop.yaml", r"args\.manifests: there is no loop\.yaml in the workspace"),
        ("out*.yaml", r"args\.manifests: outside\.yaml leads out of the workspace"),
        ("*.json", r"args\.manifests: nothing in the workspace matches '\*\.json'"),
        ("a**/x", r"args\.manifests: 'a\*\*/x' is no glob"),
    ],
)
async def test_manifests_are_in_the_workspace(stage: Stage, tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "secret").touch()
    (stage.workspace / "outside.yaml").symlink_to(tmp_path / "secret")
    (stage.workspace / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(ArgumentError, match=words):
        await stage.run("k8s", {"manifests": [name]})


@pytest.mark.parametrize(
    ("action", "args", "words"),
    [
        ("delete", {}, "action: k8s has apply, got 'delete'"),
        ("", {}, r"args\.manifests: expected a list of texts, got nothing"),
        ("", {"manifests": []}, r"args\.manifests: expected a list of texts"),
        ("", {"manifests": ["a", 1.0]}, r"args\.manifests: expected a list of texts, none of them blank"),
        ("", {"manifests": [" "]}, r"args\.manifests: expected a list of texts, none of them blank"),
        ("", {"manifests": ["/etc/passwd"]}, r"args\.manifests: expected a path inside the workspace"),
        ("", {"manifests": ["a/../../b"]}, r"args\.manifests: expected a path inside the workspace"),
        ("", {"manifests": ["a"], "wait": "yes"}, r"args\.wait: expected true or false"),
        ("", {"manifest": ["a"]}, r"args\.manifest: unknown argument"),
    ],
)
def test_what_is_refused(action: str, args: Args, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        k8s.parse(action, args, Path("/w"))


def test_a_configuration_does_not_show_itself() -> None:
    parsed = k8s.parse("", {"manifests": ["a"], "kubeconfig": KUBECONFIG}, Path("/w"))
    assert "hunter2" not in repr(parsed)
