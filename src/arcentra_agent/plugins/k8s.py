"""`uses: k8s`: applies manifests of the workspace to a cluster by kubectl, and waits for it when told to."""

import asyncio
import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from arcentra_agent.plugins import arguments
from arcentra_agent.plugins.arguments import ArgumentError
from arcentra_agent.plugins.base import Args, PluginMissingError, StepContext, StepResult, write_private

# What kubectl can watch the rollout of.
_ROLLED_OUT = ("Deployment", "DaemonSet", "StatefulSet")
_COLUMNS = "custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name"


@dataclass(frozen=True, slots=True)
class Apply:
    """What to apply, paths and globs, and where. An empty `kubeconfig`: what kubectl finds by itself on the agent."""

    manifests: tuple[str, ...]
    context: str
    namespace: str
    wait: bool
    kubeconfig: str = field(default="", repr=False)


def parse(action: str, args: Args, workspace: Path) -> Apply:
    """Read the arguments; the only action is `apply`.

    Raises:
        ArgumentError: see there.
    """
    if action not in {"", "apply"}:
        raise ArgumentError(f"action: k8s has apply, got {action[:64]!r}")
    arguments.check_known(args, ("manifests", "context", "namespace", "kubeconfig", "wait"))
    manifests = arguments.texts(args, "manifests")
    for manifest in manifests:
        arguments.below(workspace, manifest, "manifests")
    return Apply(
        manifests=tuple(manifests),
        context=arguments.text(args, "context"),
        namespace=arguments.text(args, "namespace"),
        wait=arguments.flag(args, "wait"),
        kubeconfig=arguments.text(args, "kubeconfig"),
    )


class K8sPlugin:
    """Applies manifests."""

    secret_args: ClassVar[frozenset[str]] = frozenset({"kubeconfig"})

    async def run(self, action: str, args: Args, context: StepContext) -> StepResult:
        todo = parse(action, args, context.workspace)
        files = await asyncio.to_thread(_files_of, todo, context.workspace)
        if shutil.which("kubectl", path=context.env.get("PATH")) is None:
            raise PluginMissingError("this agent has no kubectl: install it on its host, in a folder of its PATH")
        with _kubeconfig(todo.kubeconfig, context.scratch) as env:
            return await _apply(_Kubectl(context, todo, env), files, wait=todo.wait)


def _files_of(todo: Apply, workspace: Path) -> list[str]:
    found = [path for manifest in todo.manifests for path in arguments.matching(workspace, manifest, "manifests")]
    return [str(arguments.resolved(path, workspace, "manifests")) for path in found]


class _Kubectl:
    """The kubectl program with the options that name the cluster."""

    def __init__(self, context: StepContext, todo: Apply, env: Mapping[str, str]) -> None:
        self._context = context
        self._env = env
        self._cluster = (f"--context={todo.context}",) if todo.context else ()
        self._namespace = (f"--namespace={todo.namespace}",) if todo.namespace else ()

    async def __call__(self, *args: str) -> int:
        return await self._context.run(("kubectl", *self._cluster, *self._namespace, *args), env=self._env)

    async def rollout_status(self, kind: str, namespace: str, name: str) -> int:
        """Wait until the newest version runs; its own namespace goes before that of the step."""
        argv = ("kubectl", *self._cluster, f"--namespace={namespace}", "rollout", "status", f"{kind.lower()}/{name}")
        return await self._context.run(argv, env=self._env)

    async def rolled_out(self, files: list[str]) -> list[tuple[str, str, str]] | None:
        """Return kind, namespace and name of what has a rollout among the applied; None when kubectl cannot tell."""
        argv = ("kubectl", *self._cluster, *self._namespace, "get", *_options(files), "--no-headers", "-o", _COLUMNS)
        code, text = await self._context.capture(argv, env=self._env)
        rows = [line.split() for line in text.splitlines()]
        return None if code else [(row[0], row[1], row[2]) for row in rows if len(row) == 3 and row[0] in _ROLLED_OUT]


async def _apply(kubectl: _Kubectl, files: list[str], *, wait: bool) -> StepResult:
    if code := await kubectl("apply", *_options(files)):
        return StepResult(code, "kubectl could not apply the manifests; the log says why")
    if not wait:
        return StepResult(0)
    found = await kubectl.rolled_out(files)
    if found is None:
        return StepResult(1, "kubectl could not find what it applied; the log says why")
    for kind, namespace, name in dict.fromkeys(found):
        if code := await kubectl.rollout_status(kind, namespace, name):
            return StepResult(code, f"the rollout of {kind.lower()}/{name} did not succeed; the log says why")
    return StepResult(0)


def _options(files: list[str]) -> list[str]:
    return [f"--filename={file}" for file in files]


@contextlib.contextmanager
def _kubeconfig(content: str, scratch: Path) -> Iterator[Mapping[str, str]]:
    """Give the environment in which kubectl reads this configuration, from a file that is gone afterwards."""
    if not content:
        yield {}
        return
    file = scratch / "kubeconfig"
    write_private(file, content)
    try:
        yield {"KUBECONFIG": str(file)}
    finally:
        file.unlink(missing_ok=True)
