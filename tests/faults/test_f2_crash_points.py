"""F2: the server dies at each of its crash points, is started again, and everything comes to its end as it should.

The short form goes through all points in chains, an installation each, which may run beside each other: each server dies
where it is armed to, while the stories of those before go on, and the checker has the last word. The long form checks
after each point, and takes each many times.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from arcentra_server.crashpoint import POINTS
from tests.faults.field import SAFE_LEASE, Field
from tests.faults.scenarios import Scenarios
from tests.faults.sizes import LONG, Size, hang_guard
from tests.support.hook_server import hook_server
from tests.support.postgres import Databases, connected
from tests.support.server import ServerFailed

pytestmark = [pytest.mark.slow, pytest.mark.faults, hang_guard()]
SETTINGS = {
    "ARCENTRA_NOTIFICATIONS__ALLOW": '["127.0.0.0/8", "::1"]',
    "ARCENTRA_NOTIFICATIONS__ALLOW_HTTP": "true",
}
MIGRATION = [name for name in POINTS if name.startswith("migrate.")]
OTHERS = [name for name in POINTS if name not in MIGRATION]
AT_START = "rearm."
# Of seconds, for machines on which much else goes on; a story comes to its place within one or two.
REACHED_WITHIN = 180.0
ENDED_WITHIN = 600.0


@asynccontextmanager
async def installation(databases: Databases, paths: pytest.TempPathFactory) -> AsyncIterator[Scenarios]:
    """One installation for all points, whose agents live through all of it."""
    async with (
        databases.clone() as dsn,
        hook_server() as inbox,
        Field.on(paths.mktemp("points") / "field", dsn, seed=1) as field,
    ):
        field.lease, field.heartbeat = SAFE_LEASE, 1.0
        field.sandbox.settings.update(SETTINGS)
        await field.serve()
        async with asyncio.TaskGroup() as group:
            scenarios = Scenarios(field, inbox, group)
            await scenarios.prepare()
            await field.agents(3, pulling=1, options=("--logs", "1", "--events", "1"))
            yield scenarios


async def die_at(scenarios: Scenarios, point: str) -> str:
    """Let a server die at a point, while the stories go on that come there; return why it did not."""
    field, name = scenarios.field, point.partition(":")[0]
    await field.kill()
    await scenarios.lapse()
    try:
        await field.serve(crash_at=point)
    except ServerFailed as error:
        return "" if name.startswith(AT_START) and f"ended with {-signal.SIGKILL}" in str(error) else str(error)
    scenarios.begin(name)
    if name.startswith("drain."):
        field.server.process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(REACHED_WITHIN):
            code = await field.server.process.wait()
    except TimeoutError:
        return f"the server never came to {point}: {POINTS[name]}"
    return "" if code == -signal.SIGKILL else f"the server ended by itself, with {code}, before it came to {point}"


async def come_to_end(scenarios: Scenarios) -> None:
    """Start a server that lives, let all stories come to their ends, and check."""
    await scenarios.field.kill()
    await scenarios.lapse()
    await scenarios.field.serve()
    async with asyncio.timeout(ENDED_WITHIN):
        await scenarios.ended()
    await scenarios.field.check()


async def go_through(points: Sequence[str], databases: Databases, paths: pytest.TempPathFactory) -> dict[str, str]:
    """Take points one after the other; return what kept the server from dying at each, under "" what from the end."""
    found: dict[str, str] = {}
    async with installation(databases, paths) as scenarios:
        for point in points:
            found[point] = await die_at(scenarios, point)
        try:
            await come_to_end(scenarios)
        except (AssertionError, TimeoutError) as error:
            found[""] = str(error) or f"these stories did not come to their ends: {scenarios.give_up()}"
    return found


@pytest.fixture(scope="class")
async def deaths(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What became of the points of a chain."""
    return await go_through(request.cls.points, databases, tmp_path_factory)


class Chain:
    """Points that are gone through together, in the process of the tests that look at them."""

    points: Sequence[str]

    async def test_server_dies_there(self, deaths: dict[str, str], point: str) -> None:
        assert deaths[point] == ""

    async def test_everything_comes_to_its_end(self, deaths: dict[str, str]) -> None:
        assert deaths.get("", "") == ""


@pytest.mark.skipif(LONG, reason="the long form takes each point by itself")
class TestOneHalf(Chain):
    points = OTHERS[0::2]


@pytest.mark.skipif(LONG, reason="the long form takes each point by itself")
class TestOtherHalf(Chain):
    points = OTHERS[1::2]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.cls is not None and "point" in metafunc.fixturenames:
        metafunc.parametrize("point", metafunc.cls.points)


def test_every_point_is_gone_through() -> None:
    assert sorted([*TestOneHalf.points, *TestOtherHalf.points, *MIGRATION]) == sorted(POINTS)


@pytest.mark.skipif(not LONG, reason="the short form takes all points together")
@pytest.mark.parametrize("point", OTHERS)
async def test_each_point_many_times(
    databases: Databases, tmp_path_factory: pytest.TempPathFactory, size: Size, point: str
) -> None:
    async with installation(databases, tmp_path_factory) as scenarios:
        for number in range(size.faults):
            assert await die_at(scenarios, f"{point}:{1 + number % 3}") == ""
            await come_to_end(scenarios)


@pytest.mark.parametrize("point", MIGRATION)
async def test_migration_that_dies_there_is_done_again(databases: Databases, tmp_path: Path, point: str) -> None:
    async with databases.clone() as dsn, Field.on(tmp_path / "field", dsn, seed=1) as field:
        async with connected(dsn) as connection:
            await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        with pytest.raises(ServerFailed, match=f"ended with {-signal.SIGKILL}"):
            await field.serve(crash_at=point)
        await field.serve()
        await field.check()
