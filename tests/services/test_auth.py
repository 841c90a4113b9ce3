"""Credentials: who they belong to, what is refused, and how often a peer may guess."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial

import pytest

from arcentra_server.domain.errors import ArcentraError, LimitExceeded, Unauthenticated, Unavailable
from arcentra_server.domain.identity import Role, TokenKind
from arcentra_server.services.agents import AgentFacts
from tests.support.world import World


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def world(dsn: str, clock: Clock) -> AsyncIterator[World]:
    async with World(dsn, clock) as world:
        yield world


async def _user(world: World, ttl: timedelta | None = None) -> str:
    return await world.server.auth.issue(TokenKind.USER, "alice", Role.VIEWER, ttl=ttl)


async def _refused(world: World, text: str, peer: str) -> None:
    with pytest.raises(Unauthenticated, match=r"^invalid credentials$"):
        await world.server.auth.authenticate(text, peer)


async def test_good_tokens_say_who_calls(world: World) -> None:
    text = await _user(world, timedelta(hours=1))
    assert world.server.auth.cached(text) is None
    caller = await world.server.auth.authenticate(text, "peer")
    assert (caller.name, caller.role, caller.agent_id) == ("alice", Role.VIEWER, None)
    assert world.server.auth.cached(text) == caller


async def test_what_is_no_good_token_is_refused_alike(world: World) -> None:
    good = await _user(world)
    prefix, kind, identity, secret = good.split("_", 3)
    bad = {
        "empty": "",
        "no token": "nothing",
        "wrong secret": good[:-4] + "AAAA",
        "unknown": f"{prefix}_{kind}_unknown_{secret}",
        "no secret": f"{prefix}_{kind}_{identity}_",
        "other kind": f"{prefix}_agt_{identity}_{secret}",
        "expired": await _user(world, timedelta(seconds=-1)),
        "registration": await world.server.auth.issue(TokenKind.REGISTRATION, "join", Role.AGENT),
        "letters": "arc_pat_\N{LATIN SMALL LETTER E WITH ACUTE}_\N{SNOWMAN}",
    }
    for what, text in bad.items():
        await _refused(world, text, what)


async def test_secrets_are_not_stored(world: World) -> None:
    text = await _user(world)
    secret = text.rsplit("_", 1)[1]
    stored = await world.sql("SELECT t::text FROM tokens t")
    assert not any(secret in row["t"] or secret.encode().hex() in row["t"] for row in stored)


async def test_revoked_token_is_good_for_five_seconds_at_most(world: World, clock: Clock) -> None:
    text = await _user(world)
    await world.server.auth.authenticate(text, "peer")
    await world.sql("UPDATE tokens SET revoked_at = clock_timestamp()")
    clock.now += 4.9
    await world.server.auth.authenticate(text, "peer")
    clock.now += 0.2
    await _refused(world, text, "peer")


async def test_token_of_an_agent_ends_with_it(world: World, clock: Clock) -> None:
    token = await world.server.auth.issue(TokenKind.REGISTRATION, "join", Role.AGENT)
    joined = await world.server.agents.register(token, AgentFacts("x"))
    assert (await world.server.auth.authenticate(joined.token, "peer")).agent_id == joined.agent_id
    await world.server.agents.unregister(joined.agent_id, "")
    clock.now += 5.1
    await _refused(world, joined.token, "peer")


async def test_streams_end_with_their_credential(world: World) -> None:
    ended: list[tuple[str, str]] = []
    kept, revoked, expired = [await _user(world, timedelta(hours=1)) for _ in range(3)]
    token = await world.server.auth.issue(TokenKind.REGISTRATION, "join", Role.AGENT)
    joined = await world.server.agents.register(token, AgentFacts("x"))
    with ExitStack() as open_streams:
        for name, text in (("kept", kept), ("revoked", revoked), ("expired", expired), ("agent", joined.token)):
            caller = await world.server.auth.authenticate(text, "peer")
            for _ in range(2):
                end = partial(lambda name, why: ended.append((name, why)), name)
                open_streams.enter_context(world.server.auth.watch(caller.token_id, end))
        await world.server.auth.end_streams()
        assert ended == []
        await world.sql("UPDATE tokens SET revoked_at = clock_timestamp() WHERE id = $1", revoked.split("_")[2])
        await world.sql(
            "UPDATE tokens SET expires_at = clock_timestamp() - interval '1 s' WHERE id = $1", expired.split("_")[2]
        )
        await world.server.agents.unregister(joined.agent_id, "")
        await world.server.auth.end_streams()
    assert sorted(set(ended)) == [
        ("agent", "credential revoked"),
        ("expired", "credential expired"),
        ("revoked", "credential revoked"),
    ]
    assert len(ended) == 6
    for text in (revoked, expired, joined.token):
        assert world.server.auth.cached(text) is None  # none opens another one meanwhile
    assert world.server.auth.cached(kept) is not None
    await world.server.auth.end_streams()
    assert len(ended) == 6


async def test_peer_that_guesses_is_slowed_down_and_others_are_not(world: World, clock: Clock) -> None:
    good = await _user(world)
    for _ in range(10):
        await _refused(world, "arc_pat_unknown_secret", "guesser")
    with pytest.raises(LimitExceeded, match=r"^too many attempts$"):
        await world.server.auth.authenticate("arc_pat_unknown_secret", "guesser")
    with pytest.raises(LimitExceeded):
        await world.server.auth.authenticate(good, "guesser")
    await world.server.auth.authenticate(good, "somebody else")
    assert await world.server.auth.authenticate(good, "guesser")  # known already: costs nothing
    clock.now += 6  # one more guess in six seconds
    await _refused(world, "arc_pat_unknown_secret", "guesser")
    with pytest.raises(LimitExceeded):
        await world.server.auth.authenticate("arc_pat_unknown_secret", "guesser")
    clock.now += 60
    for _ in range(10):
        await _refused(world, "arc_pat_unknown_secret", "guesser")


async def test_all_who_wait_are_told_when_a_database_that_hung_is_known_to_be_away(world: World) -> None:
    texts = [await _user(world) for _ in range(3)]

    async def told(text: str) -> type[Exception] | None:
        try:
            await world.server.auth.authenticate(text, "peer")
        except ArcentraError as error:
            return type(error)
        return None

    async with asyncio.TaskGroup() as group, world.database.transaction() as tx:
        await tx.execute("LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE")
        first = group.create_task(told(texts[0]))
        while not (pid := await tx.fetchval("SELECT pid FROM pg_locks WHERE NOT granted")):
            pass  # the first is looked up, and will be until the end
        others = [group.create_task(told(text)) for text in texts[1:]]
        await asyncio.sleep(0)  # they wait behind it
        await tx.execute("SELECT pg_terminate_backend($1)", pid)
        assert await asyncio.gather(first, *others) == [Unavailable] * 3
    assert [await told(text) for text in texts] == [None] * 3


async def test_first_administrator_is_made_once(world: World) -> None:
    kept: list[str] = []
    assert await world.server.auth.bootstrap(kept.append)
    assert not await world.server.auth.bootstrap(kept.append)
    [text] = kept
    assert (await world.server.auth.authenticate(text, "peer")).role is Role.ADMIN


async def test_token_that_cannot_be_kept_is_not_good(world: World) -> None:
    kept: list[str] = []

    def fail(text: str) -> None:
        kept.append(text)
        raise OSError("disk full")

    with pytest.raises((OSError, Unavailable)):
        await world.server.auth.bootstrap(fail)
    await _refused(world, kept[0], "peer")
    assert await world.server.auth.bootstrap(kept.append)
