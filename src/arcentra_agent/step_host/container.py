"""A step in a container: its image is run by podman or docker, with the workspace at the same path.

The program of the runtime is a tool of the agent, with the agent's environment. What the step is given goes in by name
(`--env NAME`), so that no value is on a command line; what would change how the runtime itself works goes in through a
pipe. The container's output is not kept by the runtime: it would be there as it is, and not masked.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from arcentra_agent.environment import BadEnvironmentError
from arcentra_agent.outcomes import InvalidStepError
from arcentra_agent.plugins import shell
from arcentra_agent.plugins.base import (
    Args,
    ContainerError,
    ImagePullError,
    PluginMissingError,
    StepContext,
    StepResult,
)
from arcentra_agent.plugins.shell import Command, Script
from arcentra_agent.step_host.order import Order

_RUNTIMES = ("podman", "docker")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}")
# What podman, docker, and what they start go by themselves. Where others have names of the same beginning, such as
# GOOGLE_CREDENTIALS and DOCKER_AUTH_CONFIG, those that count are listed.
_OF_RUNTIME = re.compile(
    r"PATH|HOME|TMPDIR|LD_.*|GLIBC_TUNABLES|XDG_.*|CONTAINERS_.*|PODMAN_.*|BUILDAH_.*|DBUS_.*|NOTIFY_SOCKET"
    r"|GO(DEBUG|GC|MAXPROCS|MEMLIMIT|TRACEBACK|RACE|COVERDIR|FIPS)"
    r"|DOCKER_(HOST|CONTEXT|CONFIG|CERT_PATH|TLS|TLS_VERIFY|API_VERSION|DEFAULT_PLATFORM|CONTENT_TRUST"
    r"|CONTENT_TRUST_SERVER|CUSTOM_HEADERS|TMPDIR|CLI_EXPERIMENTAL|CLI_HINTS|CLI_PLUGIN_.*)"
    r"|CONTAINER_(HOST|CONNECTION|SSHKEY|PASSPHRASE|PROXY|TLS_.*)"
    r"|STORAGE_(DRIVER|OPTS)|REGISTRY_AUTH_FILE|REGISTRIES_CONFIG_PATH|SSL_CERT_(FILE|DIR)"
    r"|LISTEN_(PID|FDS|FDNAMES)|(?i:(https?|no|all|ftp)_proxy)"
)
# bash where the image has it, as on the agent itself.
_BEST_SHELL = 'if command -v bash >/dev/null 2>&1; then exec bash -e "$0"; else exec sh -e "$0"; fi'
_NOT_CREATED, _NOT_EXECUTABLE, _NOT_FOUND = 125, 126, 127
_KILL_TIMEOUT = 60.0
# All of them together fit into a pipe, so that writing them waits for nobody.
_LONGEST_OWN = 2 * 1024


class ContainerPlugin:
    """The plugin `shell` in a container. `note` is a file for who has to end the container when this process cannot."""

    secret_args: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, order: Order, note: Path) -> None:
        self._order = order
        self._image = order.spec.image
        self._note = note
        self._end: asyncio.Future[None] | None = None

    async def ended(self, longest: float) -> None:
        """Wait until a container that is being ended is gone, for so many seconds at most."""
        if self._end is not None:
            await asyncio.wait([self._end], timeout=longest)

    async def run(self, action: str, args: Args, context: StepContext) -> StepResult:
        spec = self._order.spec
        if spec.uses != "shell":
            raise InvalidStepError(f"image: only steps that use shell run in an image, and this one uses {spec.uses}")
        if not _IMAGE.fullmatch(self._image):
            raise InvalidStepError(f"image: expected the name of an image, got {self._image[:80]!r}")
        program = _program(shell.parse(action, args), context.scratch)
        runtime = _Runtime(find_runtime(self._order.local.container_runtime, self._image), context)
        if not await runtime.has(self._image):
            await context.say(f"pulling the image {self._image}")
            await runtime.pull(self._image)
        return await self._run(runtime, program, context)

    async def _run(self, runtime: "_Runtime", program: tuple[str, ...], context: StepContext) -> StepResult:
        container = Container(runtime.argv, f"arcentra-{self._order.spec.step_run_id}")
        created = context.scratch / "container"
        async with _variables(self._passed(context), context.scratch) as (options, env):
            argv = (
                *("run", "--rm", "--init", "--pull=never", "--log-driver=none", "--entrypoint="),
                *(f"--name={container.name}", f"--cidfile={created}", *runtime.identity),
                *(f"--volume={path}:{path}" for path in (context.workspace, context.scratch)),
                *(f"--workdir={context.workspace}", *options, *self._order.local.container_options),
                *(self._image, *program),
            )
            self._note.write_text(json.dumps([list(container.runtime), container.name]))
            try:
                code = await runtime.run(argv, env)
            except asyncio.CancelledError:
                # Its program may have been killed by now, and not the container. A second cancellation stops the
                # waiting and not the thread; whoever kills what the thread has started waits by `ended` before.
                self._end = asyncio.get_running_loop().run_in_executor(None, container.kill)
                await asyncio.shield(self._end)
                raise
        if code == _NOT_CREATED and not created.exists():
            raise ContainerError(f"the container could not be created from {self._image}; the log says why")
        if code in {_NOT_EXECUTABLE, _NOT_FOUND}:
            return StepResult(
                code, f"exit code {code}: a program is not there, or may not be executed, in {self._image}"
            )
        return shell.result_of(code)

    def _passed(self, context: StepContext) -> Mapping[str, str]:
        """Return what the step is given, without the base that it has outside of a container."""
        given = {*self._order.spec.env, *self._order.spec.secrets}
        return {name: value for name, value in context.env.items() if name in given or name not in self._order.base_env}


@dataclass(frozen=True, slots=True)
class Container:
    """A container by its name, and the command line of the runtime that has it."""

    runtime: tuple[str, ...]
    name: str

    def kill(self) -> None:
        """End and remove the container; one that is gone is fine. It takes some time, so not for the event loop."""
        for command in (("kill", "--signal=KILL"), ("rm", "--force")):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(  # noqa: S603 - the operator's own command line
                    (*self.runtime, *command, self.name),
                    check=False,
                    capture_output=True,
                    stdin=subprocess.DEVNULL,
                    timeout=_KILL_TIMEOUT,
                )


def kill_noted(note: Path) -> None:
    """Kill the container whose host was killed, if it had one; `note` is what that host left."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        runtime, name = json.loads(note.read_text())
        Container(tuple(runtime), name).kill()


def find_runtime(command_line: tuple[str, ...], image: str) -> tuple[str, ...]:
    """Return the command line of the runtime: that of the operator, or podman or docker, whichever is there.

    Raises:
        PluginMissingError: when it is not there.
    """
    if command_line:
        if shutil.which(command_line[0]) is None:
            raise PluginMissingError(f"--container-runtime: this agent has no program {command_line[0]}")
        return command_line
    for name in _RUNTIMES:
        if shutil.which(name):
            return (name,)
    raise PluginMissingError(
        f"the step runs in the image {image}, and this agent has neither podman nor docker: install one of them on its "
        "host, in a folder of its PATH (Debian, Ubuntu: apt-get install podman catatonit)"
    )


class _Runtime:
    """podman or docker, by what they have in common."""

    def __init__(self, argv: tuple[str, ...], context: StepContext) -> None:
        self.argv = argv
        self._context = context
        # By these whoever looks for what is left of a step finds it.
        self._marks = {name: context.env[name] for name in ("ARCENTRA_WORKSPACE", "ARCENTRA_STEP_RUN_ID")}

    @property
    def identity(self) -> tuple[str, ...]:
        """Return the options by which the step's files in the workspace belong to the agent's user.

        podman without root maps root of the container to that user; docker maps nobody.
        """
        if any(Path(word).name.startswith("podman") for word in self.argv):
            # Else a host with SELinux hides the workspace.
            return ("--user=0:0", "--security-opt=label=disable")
        return (f"--user={os.geteuid()}:{os.getegid()}",)

    async def run(self, args: tuple[str, ...], env: Mapping[str, str]) -> int:
        return await self._context.launcher.run(
            (*self.argv, *args),
            cwd=self._context.workspace,
            env={**os.environ, **env, **self._marks},
            output=self._context.output,
        )

    async def has(self, image: str) -> bool:
        """Tell whether the image is here; what is said when it is not is nothing for the log."""
        silent = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            env = {**os.environ, **self._marks}
            argv = (*self.argv, "image", "inspect", "--format={{.Id}}", image)
            return await self._context.launcher.run(argv, cwd=self._context.workspace, env=env, output=silent) == 0
        finally:
            os.close(silent)

    async def pull(self, image: str) -> None:
        if await self.run(("pull", "--quiet", image), {}) == 0:
            return
        if await self.run(("version",), {}) != 0:
            program = " ".join(self.argv)
            raise PluginMissingError(f"{program} does not work on this agent's host; the log says why")
        raise ImagePullError(f"the image {image} cannot be pulled; the log says why")


def _program(todo: Script | Command, scratch: Path) -> tuple[str, ...]:
    """Return what is run in the container; a script is a file there, and its default shell is the image's."""
    if isinstance(todo, Command):
        return todo.argv
    file = scratch / "script"
    file.write_text(todo.text, "utf-8")
    return (*todo.interpreter, str(file)) if todo.interpreter else ("sh", "-c", _BEST_SHELL, str(file))


@asynccontextmanager
async def _variables(passed: Mapping[str, str], scratch: Path) -> AsyncIterator[tuple[list[str], Mapping[str, str]]]:
    """Give options, and the environment of the runtime, by which a container has these variables."""
    own = {name: value for name, value in passed.items() if _OF_RUNTIME.fullmatch(name)}
    for name, value in own.items():
        if "\n" in value or "\r" in value or len(value.encode()) > _LONGEST_OWN:
            raise BadEnvironmentError(f"env: in a container the value of {name} has to be one line of at most 2 KiB")
    others = {name: value for name, value in passed.items() if name not in own}
    options = [f"--env={name}" for name in sorted(others)]
    if not own:
        yield options, others
        return
    async with _pipe(scratch / "env", "".join(f"{name}={value}\n" for name, value in own.items())) as pipe:
        yield [*options, f"--env-file={pipe}"], others


@asynccontextmanager
async def _pipe(path: Path, text: str) -> AsyncIterator[Path]:
    """Give a named pipe that says the text to the first who reads it, and is gone then."""
    os.mkfifo(path, 0o600)
    feeding = asyncio.get_running_loop().run_in_executor(None, _feed, path, text)
    try:
        yield path
    finally:
        # If nobody has read it, this ends the waiting for who does.
        with contextlib.suppress(FileNotFoundError), _reader(path):
            await asyncio.shield(feeding)


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.close(descriptor)


def _feed(path: Path, text: str) -> None:
    with contextlib.suppress(BrokenPipeError), path.open("w", encoding="utf-8") as pipe:
        path.unlink()
        pipe.write(text)
