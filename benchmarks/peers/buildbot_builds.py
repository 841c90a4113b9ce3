"""Builds of Buildbot: `python buildbot_builds.py --dir DIR --builds N --starts N`.

Runs a master with its defaults (SQLite) in this process and a worker beside it. Times how long single builds take from
the call that asks for one until its step has started, when its worker is told what to run, and then how fast many are
done. Prints what a load generator prints.
"""

import argparse
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from buildbot.master import BuildMaster  # type: ignore[import-not-found] # in an environment of its own
from twisted.internet import defer, error, reactor  # type: ignore[import-not-found] # as above
from twisted.python import log  # type: ignore[import-not-found] # as above

BINARIES = Path(sys.executable).parent
CONFIGURATION = Path(__file__).with_name("master.cfg")
SUCCESS = 0


def run_tool(*argv: str | Path) -> None:
    """Run a program of Buildbot to its end; what it prints is none of ours."""
    subprocess.run([BINARIES / argv[0], *argv[1:]], check=True, stdout=sys.stderr)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def worker(directory: Path, port: int, password: str) -> Iterator[None]:
    """Run a worker within the context."""
    run_tool("buildbot-worker", "create-worker", directory, f"127.0.0.1:{port}", "worker", password)
    argv = [str(BINARIES / "buildbot-worker"), "start", "--nodaemon", str(directory)]
    with subprocess.Popen(argv, stdout=sys.stderr) as process:
        try:
            yield
        finally:
            process.terminate()


class Builds:
    """Asks a master for builds and hears when they start and end."""

    def __init__(self, master: Any, builder_id: int) -> None:
        self._master = master
        self._builder_id = builder_id
        self._started = defer.DeferredQueue()
        self._finished = defer.DeferredQueue()

    async def listen(self) -> None:
        """Hear of builds from now on."""
        await self._master.mq.startConsuming(self._note_step, ("steps", None, "started"))
        await self._master.mq.startConsuming(lambda _, build: self._finished.put(build), ("builds", None, "finished"))

    def _note_step(self, _: object, step: Any) -> None:
        # Each build has a step before it, which prepares the worker.
        if step["name"] == "shell":
            self._started.put(step)

    async def ask(self) -> None:
        """Ask for one build."""
        await self._master.data.updates.addBuildset(
            waited_for=False,
            scheduler="benchmark",
            builderids=[self._builder_id],
            sourcestamps=[{"codebase": "", "repository": "", "branch": None, "revision": None, "project": ""}],
        )

    async def time_one(self) -> float:
        """Milliseconds from asking for one build until its step has started; it has ended when this is answered."""
        begin = time.perf_counter()
        await self.ask()
        step = await self._started.get()
        waited = (time.perf_counter() - begin) * 1000
        build = await self._end()
        if step["buildid"] != build["buildid"]:
            raise RuntimeError(f"build {build['buildid']} was asked for, and a step of {step['buildid']} started")
        return waited

    async def time_many(self, builds: int) -> float:
        """Seconds in which so many builds, all asked for at once, are done."""
        begin = time.perf_counter()
        for _ in range(builds):
            await self.ask()
        for _ in range(builds):
            await self._end()
        return time.perf_counter() - begin

    async def _end(self) -> Any:
        build = await self._finished.get()
        if build["results"] != SUCCESS:
            raise RuntimeError(f"build {build['buildid']} ended with {build['results']}")
        return build


async def measure(master: Any, builds: int, starts: int) -> None:
    """Measure with a worker that is connected, and print what came of it."""
    (builder,) = await master.data.get(("builders",))
    asked = Builds(master, builder["builderid"])
    await asked.listen()
    await asked.time_one()  # the first prepares the worker
    waits = [await asked.time_one() for _ in range(starts)]
    print(json.dumps({"event": "started"}), flush=True)
    seconds = await asked.time_many(builds)
    done = sum(build["results"] == SUCCESS for build in await master.data.get(("builds",)))
    if done != 1 + starts + builds:
        raise RuntimeError(f"{1 + starts + builds} builds asked for, {done} succeeded in the database")
    figures = {"done": builds, "builds_per_second": builds / seconds, "start_p50_ms": median(waits)}
    print(json.dumps({"event": "finished", **figures}), flush=True)


async def run(directory: Path, builds: int, starts: int) -> None:
    """Start the master and then a worker, and measure when they have met."""
    port, password, home = free_port(), secrets.token_hex(16), directory / "master"
    os.environ.update(BENCHMARK_PORT=str(port), BENCHMARK_PASSWORD=password)
    run_tool("buildbot", "create-master", "-q", home)
    shutil.copy(CONFIGURATION, home / "master.cfg")
    master = BuildMaster(str(home), "master.cfg")
    await master.startService()
    connected = defer.Deferred()
    consumer = await master.mq.startConsuming(lambda *_: connected.callback(None), ("workers", None, "connected"))
    with worker(directory / "worker", port, password):
        await connected
        consumer.stopConsuming()
        await measure(master, builds, starts)


def stop() -> None:
    """End the event loop, also when it is asked for twice."""
    with contextlib.suppress(error.ReactorNotRunning):
        reactor.stop()


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="an empty directory for master and worker")
    parser.add_argument("--builds", type=int, required=True, help="builds at once")
    parser.add_argument("--starts", type=int, required=True, help="builds one after the other, before")
    options = parser.parse_args()
    log.startLogging(sys.stderr, setStdout=False)
    failures: list[Any] = []

    def begin() -> None:
        running = defer.ensureDeferred(run(options.dir, options.builds, options.starts))
        running.addErrback(failures.append)
        running.addBoth(lambda _: stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    if failures:
        sys.exit(str(failures[0]))


if __name__ == "__main__":
    main()
