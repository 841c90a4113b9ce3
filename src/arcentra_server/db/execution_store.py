"""The one way in which what runs is changed: lock, load, decide, write, commit, and then tell whom it concerns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

import structlog

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db.engine import Database, Row, Tx, new_id
from arcentra_server.db.execution import load_steps
from arcentra_server.db.execution_write import count_runs, write
from arcentra_server.db.turns import Turns
from arcentra_server.db.vault import Vault
from arcentra_server.domain.errors import WriteConflict
from arcentra_server.domain.execution import Dispatch, RunState
from arcentra_server.domain.lease_tokens import LeaseTokens
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.portions import LARGEST_STEP_RUN
from arcentra_server.domain.ports import AgentLinks, DispatchForm, Wake
from arcentra_server.domain.states import FailureReason

Answer = TypeVar("Answer")
_ATTEMPTS = 5
_log = structlog.get_logger()


class PlacingFailed(Exception):
    """What waits could not be leased within a change: the change is made without."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What was leased within a change. `settled`: nothing that the change brought about is left for the scheduler."""

    dispatches: Sequence[Dispatch] = ()
    settled: bool = False


class Placer(Protocol):
    """Leases what waits within the change that made room or work: one commit, and one message, does for both."""

    def placing(self, tx: Tx, ledger: Ledger) -> AbstractAsyncContextManager[Placed]:
        """Lease what can be, before the commit; the context ends after it.

        Raises:
            PlacingFailed: something went wrong; the transaction is to be rolled back.
        """
        ...


@contextmanager
def once_committed() -> Iterator[None]:
    """Do what follows a commit; what goes wrong is logged and found later by those who look: the commit is answered."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, who took the change for failed would repeat it
        _log.error("not_told_of_commit", exc_info=error)


class ExecutionStore:
    """Runs changes of pipeline runs, each in one transaction, and publishes their consequences after the commit."""

    def __init__(
        self,
        database: Database,
        links: AgentLinks,
        tokens: LeaseTokens,
        form: DispatchForm,
        vault: Vault,
        *,
        on_change: Iterable[Wake],
        on_new_work: Iterable[Wake],
        on_room: Iterable[Wake] = (),
        on_keys: Iterable[Wake] = (),
        on_orders: Iterable[Wake] = (),
    ) -> None:
        self.database = database
        self.form = form
        self.announced = 0  # how often `announce_new_work` was called: what is known of agents may be out of date
        self._vault = vault
        self._turns = Turns(form, vault, new_id)
        # Leased, but not to be sent, as a secret of theirs is not there or they are too large with them; they fail in a
        # change of their own.
        self._unsendable: dict[UUID, str] = {}
        self._links = links
        self._tokens = tokens
        self._on_change = tuple(on_change)
        self._on_new_work = tuple(on_new_work)
        self._on_room = tuple(on_room)
        self._placer: Placer | None = None
        self._on_keys = tuple(on_keys)
        self._on_orders = tuple(on_orders)

    def place_with(self, placer: Placer) -> None:
        """Let changes that are made with `place` lease what waits by this."""
        self._placer = placer

    async def change(self, action: Callable[[Tx, Ledger], Awaitable[Answer]], *, place: bool = False) -> Answer:
        """Run an action that loads a ledger and decides; write what it decided.

        The action may run several times, when another writer was first; only the last one takes effect. `place`: what
        waits is leased with it, as far as that is possible at once, and left to the scheduler else. It takes that room
        and work come of nothing but what the ledger knows.

        What is committed is answered, whatever becomes of what follows it: who took it for failed would repeat it.

        Raises:
            WriteConflict: another writer was first, again and again.
            Unavailable: the database is away.
        """
        for attempt in range(_ATTEMPTS):
            ledger, placed = Ledger(new_id, self._tokens.is_token), Placed()
            try:
                async with AsyncExitStack() as placing, self.database.transaction() as tx:
                    answer = await action(tx, ledger)
                    await self._turns.settle(tx, ledger)
                    leased = await write(tx, ledger)
                    dispatches = await self.dispatches(tx, leased, ledger.runs)
                    await count_runs(tx, ledger)
                    # Last: nothing is waited for with the rows of agents, and the turn of the scheduler, in hand.
                    if place and self._placer is not None and not attempt:
                        placed = await placing.enter_async_context(self._placer.placing(tx, ledger))
                    crashpoint("change.before_commit")
            except (WriteConflict, PlacingFailed):
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            crashpoint("change.after_commit")
            self._publish(ledger, [*dispatches, *placed.dispatches], settled=placed.settled)
            crashpoint("change.published")
            await self.fail_unsendable()
            return answer
        raise WriteConflict("another change was first, please repeat")

    async def dispatches(
        self, tx: Tx, rows: Iterable[Row], runs: Mapping[UUID, RunState] | None = None
    ) -> list[Dispatch]:
        """Return leased rows as dispatches, with the tokens of their leases and the secrets that their steps name.

        A step whose secret is gone, and one that no message holds, is left out and fails with the next
        `fail_unsendable`. `runs`: the runs as they are now, where the rows do not say their commits.
        """
        leased = list(rows)
        secrets = await self._secrets(tx, [row for row in leased if row["secrets"]])
        dispatches = [
            Dispatch(
                row["id"],
                self._tokens.token(row["id"]),
                row["step_run_id"],
                row["agent_id"],
                row["attempt"],
                row["dispatch"],
                *secrets.get(row["id"], ({}, {})),
                row["commit_sha"] if runs is None else runs[row["run_id"]].commit_sha,
            )
            for row in leased
            if row["step_run_id"] not in self._unsendable
        ]
        return [dispatch for dispatch in dispatches if self._fits(dispatch)]

    def _fits(self, dispatch: Dispatch) -> bool:
        """Answer whether a message holds a step run; one that does not fit is noted for `fail_unsendable`."""
        size = self.form.size(dispatch)
        if size <= LARGEST_STEP_RUN:
            return True
        counted = "with its secrets, each as often as the step names it" if dispatch.secrets else "with all its values"
        self._unsendable[dispatch.step_run_id] = (
            f"the step has {size:,} bytes {counted}, more than the {LARGEST_STEP_RUN:,} that can be sent to an agent: "
            "give it fewer or smaller secrets and values, split it, or let it fetch what is large by itself"
        )
        return False

    async def _secrets(self, tx: Tx, rows: list[Row]) -> dict[UUID, tuple[dict[str, str], dict[str, str]]]:
        """Return for each lease its secrets by environment variable, and by their own names."""
        if not rows:
            return {}
        found = await tx.fetch(
            "SELECT id, namespace, pipeline_id FROM pipeline_runs WHERE id = ANY($1)", [row["run_id"] for row in rows]
        )
        scopes = {run["id"]: (run["namespace"], run["pipeline_id"]) for run in found}
        wanted = {(*scopes[row["run_id"]], name) for row in rows for name in row["secrets"].values()}
        opened = await self._vault.values(tx, wanted)
        secrets = {}
        for row in rows:
            scope = scopes[row["run_id"]]
            names = sorted(set(row["secrets"].values()))
            by_name = {name: opened.values[*scope, name] for name in names if (*scope, name) in opened.values}
            for name in names:
                if name not in by_name:
                    why = str(opened.faults.get((*scope, name), "is not set"))
                    self._unsendable[row["step_run_id"]] = f"secret {name}: {why}"
            secrets[row["id"]] = ({name: by_name.get(of, "") for name, of in row["secrets"].items()}, by_name)
        return secrets

    async def fail_unsendable(self) -> None:
        """End the steps that were leased and cannot be sent: a secret of theirs is gone, or no message holds them."""
        if not self._unsendable:
            return
        messages = dict(self._unsendable)

        async def decide(tx: Tx, ledger: Ledger) -> None:
            await load_steps(tx, ledger, list(messages))
            for step_id, message in messages.items():
                if step_id in ledger.steps:
                    ledger.fail_waiting(ledger.steps[step_id], message, FailureReason.VALIDATION)

        self._unsendable = {}
        try:
            await self.change(decide)
        except Exception as error:  # noqa: BLE001 - whatever it is
            # What brought this about is committed; the leases are taken back in time, and this is tried again.
            _log.warning("unsendable_steps_not_failed", step_run_ids=[str(one) for one in messages], exc_info=error)

    def announce_new_work(self) -> None:
        """Hint that something was committed that the scheduler does not know at all: a run that may go on, an agent, labels."""
        self.announced += 1
        for wake in (*self._on_new_work, *self._on_change):
            wake()

    @once_committed()
    def _publish(self, ledger: Ledger, dispatches: list[Dispatch], *, settled: bool) -> None:
        if dispatches:
            self._links.dispatch(dispatches)
        if ledger.cancels:
            self._links.cancel(ledger.cancels)
        if ledger.releases:
            self._links.release(ledger.releases)
        here = self._links.connected()
        told = [dispatch.agent_id for dispatch in dispatches] + [command.agent_id for command in ledger.cancels]
        elsewhere = any(agent_id not in here for agent_id in told)
        keys = self._on_keys if ledger.claimed_keys or ledger.released_keys else ()
        work = (*self._on_room, *(self._on_new_work if ledger.queued or ledger.stored_queued else ()))
        orders = self._on_orders if elsewhere else ()
        for wake in (*self._on_change, *(() if settled else work), *keys, *orders):
            wake()
