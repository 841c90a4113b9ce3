"""The server beside others that are written in the same language: the job queue procrastinate and the CI system Buildbot.

Their packages come from the package registry; where it cannot be reached the scenario is skipped. Each is given what
suits it: procrastinate the same PostgreSQL, Buildbot its SQLite, and both work that runs nothing.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from arcentra_server.db.embedded import EmbeddedPostgres
from benchmarks import peers
from benchmarks.harness.lifecycle import Drain
from benchmarks.harness.load import run_peer
from benchmarks.harness.scenario import Sample, Scenario
from benchmarks.harness.subjects import Subject
from benchmarks.harness.venv import Venv
from benchmarks.harness.work import Shape
from benchmarks.scenarios import latency

VENV = Venv(
    (
        "procrastinate==3.10.0",
        "psycopg[binary]==3.3.9",
        "buildbot==4.3.0",
        "buildbot-worker==4.3.0",
        "twisted==26.10.0",
        "sqlalchemy==2.1.9",
    )
)
SCRIPTS = Path(peers.__file__).parent
DRAIN = Drain(Shape(jobs=50, steps=1), runs=400, smoke_runs=16, agents=20, slots=20)
JOBS, SMOKE_JOBS = 3_000, 60
BUILDS, SMOKE_BUILDS = 60, 3
STARTS, SMOKE_STARTS = 20, 2


@contextlib.asynccontextmanager
async def others(work_dir: Path) -> AsyncIterator[Subject]:
    """A PostgreSQL with the settings of the server's for those that want one; they are started when it is their turn."""
    await VENV.python(work_dir.parent)
    async with EmbeddedPostgres(work_dir / "data") as postgres:
        yield Subject(
            target="",
            dsn=postgres.dsn(),
            pid=postgres.pid,
            postmaster=postgres.pid,
            admin_token="",
            registration_token="",
            succeeded="",
            work_dir=work_dir,
            is_limit=True,
        )


async def measure_once(subject: Subject, smoke: bool) -> Sample:
    """Jobs of procrastinate a second, or lifecycles a second of the server."""
    return await (measure_others if subject.is_limit else measure_server)(subject, smoke)


async def measure_others(subject: Subject, smoke: bool) -> Sample:
    """Jobs of procrastinate a second; builds of Buildbot a second, and how long one takes to start, as figures.

    Each looks into its own database whether all that was asked for is done.
    """
    python, log = str(await VENV.python(subject.work_dir.parent)), subject.work_dir / "peers.log"
    jobs = ["--jobs", str(SMOKE_JOBS if smoke else JOBS)]
    queue = await run_peer(
        [python, str(SCRIPTS / "procrastinate_jobs.py"), *jobs], subject.postmaster, log, {"BENCHMARK_DSN": subject.dsn}
    )
    builds = ["--builds", str(SMOKE_BUILDS if smoke else BUILDS), "--starts", str(SMOKE_STARTS if smoke else STARTS)]
    home = subject.work_dir / "buildbot"
    home.mkdir()
    buildbot = await run_peer(
        [python, str(SCRIPTS / "buildbot_builds.py"), "--dir", str(home), *builds], subject.postmaster, log, {}
    )
    figures = {**queue.figures, **{f"buildbot_{name}": value for name, value in buildbot.figures.items()}}
    return Sample(queue.figures["jobs_per_second"], int(queue.figures["done"]), queue.cpu, figures, [])


async def measure_server(subject: Subject, smoke: bool) -> Sample:
    """Lifecycles a second, and how long a step takes to start, as a figure."""
    started = await latency.measure_once(subject, smoke)
    sample = await DRAIN.drain(subject, await DRAIN.fill(subject, smoke), before=started.operations)
    figures = {
        **sample.figures,
        "lifecycles_per_second": sample.value,
        "start_p50_ms": started.value,
    }
    return replace(sample, figures=figures, faults=started.faults + sample.faults)


SCENARIO = Scenario(
    name="peers",
    measure="step lifecycles, 20 agents x 20 slots, beside jobs of procrastinate and builds of Buildbot",
    unit="/s",
    operation="lifecycle or job",
    limit_is="procrastinate, one worker for 20 jobs at once",
    limit=others,
    measure_once=measure_once,
)
