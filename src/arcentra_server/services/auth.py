"""Credentials: made, shown once, stored as a keyed hash, and checked on every call."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

from arcentra_server.db import tokens
from arcentra_server.db.batcher import Batcher
from arcentra_server.db.engine import Database
from arcentra_server.db.tokens import TokenRow
from arcentra_server.domain.errors import LimitExceeded, Unauthenticated
from arcentra_server.domain.identity import Caller, Role, TokenKind, parse_token
from arcentra_server.domain.token_maker import TokenMaker

INVALID = "invalid credentials"
CACHE_SECONDS = 5.0  # how long a revoked token may still be taken for good (security.md, S11)
CACHE_SIZE = 20_000
LOOKUP_PAUSE = 0.02  # seconds after a look-up in which tokens wait for others
LARGEST_BATCH = 500  # tokens that are looked up together: all agents of a server that was away come at once
FAILURES_A_MINUTE = 10.0  # from one peer, before any work is done for it (security.md, S12)

End = Callable[[str], None]
"""Ends a stream; takes the reason."""


class AuthService:
    """Answers who a credential belongs to. Good answers are kept for five seconds.

    `run` must be running for `authenticate` to resolve.
    """

    def __init__(self, database: Database, maker: TokenMaker, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._maker = maker
        self._clock = clock
        self._lookups: Batcher[str, TokenRow | None] = Batcher(self._look_up, largest=LARGEST_BATCH)
        self._known: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()
        # How to end the streams that are open, by the token they were opened with.
        self._streams: dict[str, set[End]] = {}

    def cached(self, text: str) -> Caller | None:
        """Return the caller of a token that was checked in the last seconds: no wait, no database."""
        entry = self._known.get(self._cache_key(text))
        return entry[1] if entry is not None and self._clock() < entry[0] else None

    async def authenticate(self, text: str, peer: str) -> Caller:
        """Return the caller that a token belongs to.

        Raises:
            Unauthenticated: it is no token, or not a good one. Which of the two is not told.
            LimitExceeded: this peer failed too often in the last minute.
            Unavailable: the database is away; while it hangs, up to its time limit passes until that is known.
        """
        caller = self.cached(text)
        if caller is not None:
            return caller
        # A token that was good before is not throttled: behind a proxy everybody has the same address.
        if self._cache_key(text) not in self._known:
            self.throttle(peer)
        parsed = parse_token(text)
        if parsed is None or parsed.kind is TokenKind.REGISTRATION:
            raise self._refused(text, peer)
        row = await self._lookups.submit(parsed.id, pause=LOOKUP_PAUSE)
        if (
            row is None
            or row.kind is not parsed.kind
            or row.expired
            or not self._maker.matches(parsed.secret, row.secret_hash)
        ):
            raise self._refused(text, peer)
        caller = Caller(row.id, row.name, row.role, row.agent_id, row.pending)
        self._known[self._cache_key(text)] = (self._clock() + CACHE_SECONDS, caller)
        if len(self._known) > CACHE_SIZE:
            self._known.popitem(last=False)
        return caller

    async def issue(
        self,
        kind: TokenKind,
        name: str,
        role: Role,
        *,
        labels: Mapping[str, str] | None = None,
        max_uses: int | None = None,
        ttl: timedelta | None = None,
        needs_approval: bool = False,
    ) -> str:
        """Make and store a token for a user or for registrations; return its text, which is nowhere else.

        `needs_approval`: the agents that join with it wait until somebody approves them.
        """
        made = self._maker.make(kind)
        async with self._database.transaction() as tx:
            await tokens.insert(
                tx,
                token_id=made.id,
                kind=kind,
                name=name,
                role=role,
                secret_hash=made.secret_hash,
                labels=labels,
                max_uses=max_uses,
                ttl=ttl,
                needs_approval=needs_approval,
            )
        return made.text

    async def bootstrap(self, keep: Callable[[str], None]) -> bool:
        """Make the first administrator's token, unless there is one already; answer whether it was made.

        Args:
            keep: Puts the token where the administrator finds it. Called before the token is good, so that a crash
                between the two leaves no token that nobody has.
        """
        async with self._database.transaction() as tx:
            if await tokens.admin_token_exists(tx):
                return False
            made = self._maker.make(TokenKind.USER)
            keep(made.text)
            await tokens.insert(
                tx,
                token_id=made.id,
                kind=TokenKind.USER,
                name="admin",
                role=Role.ADMIN,
                secret_hash=made.secret_hash,
            )
        return True

    @contextmanager
    def watch(self, token_id: str, end: End) -> Iterator[None]:
        """Have a stream ended that outlives its credential: `end` is called with the reason when that is no longer good."""
        streams = self._streams.setdefault(token_id, set())
        streams.add(end)
        try:
            yield
        finally:
            streams.discard(end)
            if not streams and self._streams.get(token_id) is streams:
                del self._streams[token_id]

    async def end_streams(self) -> None:
        """End the open streams whose credential was revoked or has expired, here or by another server."""
        if not self._streams:
            return
        async with self._database.statements() as tx:
            ended = await tokens.ended(tx, list(self._streams))
        if ended:
            self._forget(lambda caller: caller.token_id in ended)
        for token_id, why in ended.items():
            for end in list(self._streams.get(token_id, ())):
                end(f"credential {why}")

    async def run(self) -> None:
        """Look tokens up until `close`."""
        await self._lookups.run()

    def close(self) -> None:
        self._lookups.close()

    async def _look_up(self, token_ids: Sequence[str]) -> list[TokenRow | None]:
        async with self._database.statements() as tx:
            found = await tokens.find(tx, list(set(token_ids)))
        return [found.get(token_id) for token_id in token_ids]

    def _cache_key(self, text: str) -> bytes:
        return hashlib.sha256(text.encode()).digest()

    def forget_agent(self, agent_id: UUID) -> None:
        """Look at the credential of an agent again at its next call: it is no longer good, or allows something else."""
        self._forget(lambda caller: caller.agent_id == agent_id)

    def _forget(self, is_meant: Callable[[Caller], bool]) -> None:
        for key in [key for key, (_, caller) in self._known.items() if is_meant(caller)]:
            del self._known[key]

    def _refused(self, text: str, peer: str) -> Unauthenticated:
        self._known.pop(self._cache_key(text), None)
        self.count_failure(peer)
        return Unauthenticated(INVALID)

    def count_failure(self, peer: str) -> None:
        """Note that somebody at this address brought a credential that is not good."""
        now = self._clock()
        since, count = self._failures.pop(peer, (now, 0.0))
        count = max(0.0, count - (now - since) * FAILURES_A_MINUTE / 60) + 1
        self._failures[peer] = (now, count)
        if len(self._failures) > CACHE_SIZE:
            self._failures.popitem(last=False)

    def throttle(self, peer: str) -> None:
        """Refuse an address that failed too often in the last minute, before any work is done for it.

        Raises:
            LimitExceeded: it did.
        """
        since, count = self._failures.get(peer, (0.0, 0.0))
        if count - (self._clock() - since) * FAILURES_A_MINUTE / 60 >= FAILURES_A_MINUTE:
            raise LimitExceeded("too many attempts")
