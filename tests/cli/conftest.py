"""The command line as a real process against a small real server."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.fake_pipeline_server import TOKEN, FakePipelineServer

ARCENTRA = Path(sys.executable).with_name("arcentra")


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


class Cli:
    """Runs `arcentra` with an environment of its own."""

    def __init__(self, home: Path, server: str) -> None:
        self.home = home
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "ARCENTRA_SERVER": server,
            "ARCENTRA_TOKEN": TOKEN,
        }

    async def start(self, *args: str, stdout: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            # A suite that was started in the background, where Ctrl-C is ignored, would hand that on.
            "env",
            "--default-signal=INT",
            ARCENTRA,
            *args,
            env=self.env,
            cwd=self.home,
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *args: str, stdin: str = "") -> Result:
        return await self.finish(await self.start(*args), stdin)

    async def finish(self, process: asyncio.subprocess.Process, stdin: str = "") -> Result:
        out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return Result(process.returncode, out.decode(), err.decode())


async def read_until(process: asyncio.subprocess.Process, text: str) -> str:
    """Read the output up to the line with `text`; answers what was read."""
    assert process.stdout
    read = ""
    while text not in read:
        line = await process.stdout.readline()
        assert line, f"ended without {text!r} after: {read}"
        read += line.decode()
    return read


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each command is a process of its own, which takes half a second to start."""
    for item in items:
        if isinstance(item, pytest.Function) and "cli" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
async def fake() -> AsyncIterator[FakePipelineServer]:
    server = FakePipelineServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def cli(tmp_path: Path, fake: FakePipelineServer) -> Cli:
    return Cli(tmp_path, fake.address)
