"""Fixtures of the whole suite."""

import asyncio
import inspect
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, settings

from arcentra_server.db.embedded import EmbeddedPostgres
from tests.support.postgres import Databases, chosen_bindir

_SETTLING_TURNS = 5

# How long a call that was ended may take until gRPC's core has said so. Only a call that never ends takes as long.
_CALLS_END_WITHIN = 30.0  # seconds

# How long an example takes is no property of the code: on a busy machine any of them may wait for its turn.
settings.register_profile("suite", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(autouse=True)
async def _no_leaked_tasks() -> AsyncIterator[None]:
    """Fail a test that leaves tasks running. Autouse, so it is torn down after the fixtures the test asked for."""
    before = asyncio.all_tasks()
    yield
    for _ in range(_SETTLING_TURNS):  # a task that was told to end needs turns of the loop to do so
        await asyncio.sleep(0)
    leaked = asyncio.all_tasks() - before - {asyncio.current_task()}
    if calls := {task for task in leaked if not inspect.iscoroutine(task.get_coro())}:
        # The compiled coroutines of gRPC: they end when its core, in threads of its own, tells the loop, in no number of turns.
        leaked -= (await asyncio.wait(calls, timeout=_CALLS_END_WITHIN))[0]
    for task in leaked:
        task.cancel()
    if leaked:
        await asyncio.wait(leaked)
        pytest.fail(f"the test left tasks running: {sorted(map(repr, leaked))}", pytrace=False)


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedPostgres]:
    """One real server for each process of the suite."""
    async with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), bindir=chosen_bindir()) as server:
        yield server


@pytest.fixture(scope="session")
async def databases(postgres: EmbeddedPostgres) -> AsyncIterator[Databases]:
    """The source of migrated databases."""
    async with Databases.on(postgres) as databases:
        yield databases


@pytest.fixture
async def dsn(databases: Databases) -> AsyncIterator[str]:
    """The address of an empty, migrated database, which only the test uses as long as it runs. Its schema stays."""
    async with databases.lend() as dsn:
        yield dsn
