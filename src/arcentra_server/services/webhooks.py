"""Take what code hosts deliver, and start what is triggered by it; nothing twice, and nothing lost that was taken."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import hook_deliveries, hooks, trigger_events, triggers
from arcentra_server.db.clock import Clock, database_time
from arcentra_server.db.engine import Database, new_id
from arcentra_server.db.hook_deliveries import DeliveryRow
from arcentra_server.db.hooks import HookRow, HookSecret
from arcentra_server.db.triggered_runs import DISABLED, Started, StartRun, start_triggered
from arcentra_server.db.triggers import Fired, TriggerRow
from arcentra_server.domain.definition import EventTrigger
from arcentra_server.domain.errors import NotFound, Unauthenticated, Unavailable, ValidationError
from arcentra_server.domain.forge import SHORT_TEXT, Forge, ForgeEvent, clean_line
from arcentra_server.domain.forge_payload import PayloadError
from arcentra_server.domain.forge_read import delivery_id, read_event
from arcentra_server.domain.hooks import bound_to
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.matching import Effort, Match, match
from arcentra_server.domain.secret_box import KeyRing, open_sealed
from arcentra_server.domain.states import TriggerType
from arcentra_server.domain.trigger_entries import Entry, TriggerOutcome, delivery_request
from arcentra_server.domain.webhook_signatures import is_signed

BAD_SIGNATURE = "bad signature"
CLAIM_SECONDS = 60.0  # what a server gets for a delivery before another takes it up
MOST_TRIES = 3
LARGEST_BATCH = 20
_IN_WORK = "the first one is still being worked on"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a delivery, for its sender. Of a repeated one `first` is what came of the first."""

    outcome: TriggerOutcome
    reason: str
    runs: tuple[UUID, ...]
    first: TriggerOutcome | None = None


class WebhookService:
    """See the module. `keys` open the secrets of the hooks, `start` starts runs."""

    def __init__(
        self,
        database: Database,
        keys: KeyRing,
        start: StartRun,
        *,
        clock: Clock = database_time,
    ) -> None:
        self._database = database
        self._keys = keys
        self._start = start
        self._clock = clock

    async def find(self, hook_id: UUID) -> HookRow:
        """Return the hook of an address.

        Raises:
            NotFound: there is none.
        """
        async with self._database.transaction() as tx:
            hook = await hooks.get(tx, hook_id)
        if hook is None:
            raise NotFound("no such hook")
        return hook

    async def deliver(self, hook: HookRow, headers: Mapping[str, str], body: bytes) -> Answer:
        """Take a delivery.

        Args:
            hook: The hook it came to.
            headers: Its headers, names in small letters.
            body: Its body, as it was sent.

        Raises:
            Unauthenticated: its signature is not good.
            ValidationError: its body is not what the sender of this hook sends.
            SecretUnreadable: the key that opens the secret of the hook is not known.
            Unavailable: it is to be sent again.
        """
        async with self._database.transaction() as tx:
            now = await self._clock(tx)
            secrets = [self._open(hook, secret) for secret in await hooks.good_secrets(tx, hook.id, now)]
        if not is_signed(hook.forge, secrets, headers, body):
            await self._refuse(hook, BAD_SIGNATURE, "signature", now)
            raise Unauthenticated(BAD_SIGNATURE)
        try:
            # In a thread: a large body takes longer than the loop may stand still.
            event = await asyncio.to_thread(read_event, hook.forge, headers, body)
        except PayloadError as error:
            await self._refuse(hook, f"malformed: {error}", "malformed", now)
            raise ValidationError.at("", str(error)) from error
        given_id = delivery_id(hook.forge, headers)
        async with self._database.transaction() as tx:
            delivery, is_ours = await hook_deliveries.take(
                tx,
                new_id(),
                hook.id,
                given_id,
                hashlib.sha256(body).digest(),
                event,
                now=now,
                seconds=CLAIM_SECONDS,
            )
            await hooks.note_delivery(tx, hook.id, now)
            if not is_ours:
                await trigger_events.fold(tx, _repeated(hook, delivery, event), now)
        if not is_ours:
            reason = "" if delivery.outcome else _IN_WORK
            return Answer(TriggerOutcome.DUPLICATE, reason, delivery.runs, delivery.outcome)
        crashpoint("webhook.taken")
        return await self._work(hook, delivery, event)

    async def resume(self) -> int:
        """Finish deliveries that a server took and then died over; return how many.

        Raises:
            Unavailable: the database is away.
            ExceptionGroup: of deliveries that could not be finished now; the others were.
        """
        async with self._database.transaction() as tx:
            now = await self._clock(tx)
            unfinished = await hook_deliveries.claim_unfinished(tx, now=now, seconds=CLAIM_SECONDS, limit=LARGEST_BATCH)
        errors = []
        for delivery in unfinished:
            try:
                await self._take_up(delivery)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - raised below, with the others
                errors.append(error)
        if errors:
            raise ExceptionGroup("some deliveries could not be finished", errors)
        return len(unfinished)

    async def _take_up(self, delivery: DeliveryRow) -> None:
        async with self._database.transaction() as tx:
            hook = await hooks.get(tx, delivery.hook_id)
        if hook is None or delivery.event is None:
            return
        if delivery.tries <= MOST_TRIES:
            await self._work(hook, delivery, delivery.event)
            return
        given_up = Started(TriggerOutcome.REFUSED, f"given up after {MOST_TRIES} tries: the server's log says more")
        await self._finish(hook, delivery, delivery.event, [(None, given_up)])

    async def _work(self, hook: HookRow, delivery: DeliveryRow, event: ForgeEvent) -> Answer:
        async with self._database.transaction() as tx:
            rows = await triggers.of_events(tx, hook.namespace, hook.pipeline_id)
        decided = await asyncio.to_thread(decide, rows, event)
        if not decided:
            return await self._finish(hook, delivery, event, [(None, _nobody(hook, event))])
        results: list[tuple[TriggerRow | None, Started]] = []
        for row, verdict in decided:
            if not verdict.fires:
                started = Started(TriggerOutcome.FILTERED, verdict.reason)
            elif not row.enabled:
                started = Started(TriggerOutcome.REFUSED, DISABLED)
            else:
                started = await start_triggered(self._start, row.pipeline_id, _trigger(hook, delivery, row, event))
                if started.run_id is not None:
                    said = "; ".join(reason for reason in (verdict.reason, started.reason) if reason)
                    started = Started(started.outcome, said, started.run_id)
            results.append((row, started))
        crashpoint("webhook.started")
        return await self._finish(hook, delivery, event, results)

    async def _finish(
        self,
        hook: HookRow,
        delivery: DeliveryRow,
        event: ForgeEvent,
        results: Sequence[tuple[TriggerRow | None, Started]],
    ) -> Answer:
        outcomes = [started.outcome for _, started in results]
        outcome = next(
            (one for one in (TriggerOutcome.FIRED, TriggerOutcome.REFUSED) if one in outcomes), TriggerOutcome.FILTERED
        )
        reasons = dict.fromkeys(started.reason for _, started in results if started.outcome is outcome)
        reason = clean_line("; ".join(reason for reason in reasons if reason), 4 * SHORT_TEXT)
        fired = [
            Fired(row.pipeline_id, row.digest, started.run_id)
            for row, started in results
            if row is not None and started.run_id is not None
        ]
        runs = tuple(one.run_id for one in fired)
        async with self._database.transaction() as tx:
            now = await self._clock(tx)
            entries = [_entry(hook, delivery, event, row, started) for row, started in results]
            await trigger_events.append(tx, entries, now)
            await hook_deliveries.finish(tx, delivery.id, outcome, reason, runs)
            await triggers.note_fired(tx, fired, now)
        crashpoint("webhook.finished")
        return Answer(outcome, reason, runs)

    async def _refuse(self, hook: HookRow, reason: str, code: str, now: datetime) -> None:
        """Note a delivery that was not taken: those of a hook and a minute in one entry, so that they fill nothing."""
        minute = now - timedelta(seconds=now.second, microseconds=now.microsecond)
        entry = Entry(
            key=f"refused:{hook.id}:{int(minute.timestamp())}:{code}",
            type=TriggerType.EVENT,
            namespace=hook.namespace,
            outcome=TriggerOutcome.REFUSED,
            pipeline_id=hook.pipeline_id,
            hook_id=hook.id,
            reason=clean_line(reason),
        )
        async with self._database.transaction() as tx:
            await trigger_events.fold(tx, entry, now)

    def _open(self, hook: HookRow, secret: HookSecret) -> str:
        bound = bound_to(hook.id, secret.version)
        return open_sealed(secret.sealed, bound, self._keys.unwrap(secret.sealed.key, bound)).decode()


def decide(rows: Sequence[TriggerRow], event: ForgeEvent) -> list[tuple[TriggerRow, Match]]:
    """Apply the rules of triggers, and leave out what is not worth an entry.

    A trigger for other events is left out if its pipeline has one for this event. If it has none, the first stands for
    all of them, unless nothing could have started by this event anyway.
    """
    effort = Effort()
    verdicts = [
        (row, row.trigger, match(row.trigger, event, effort)) for row in rows if isinstance(row.trigger, EventTrigger)
    ]
    hearing = {row.pipeline_id for row, trigger, _ in verdicts if event.kind in trigger.events}
    decided = [(row, verdict) for row, trigger, verdict in verdicts if event.kind in trigger.events]
    if not event.ignored:
        deaf = {row.pipeline_id: (row, verdict) for row, _, verdict in reversed(verdicts)}
        decided += [found for pipeline_id, found in deaf.items() if pipeline_id not in hearing]
    return decided


def _nobody(hook: HookRow, event: ForgeEvent) -> Started:
    if event.ignored:
        return Started(TriggerOutcome.FILTERED, event.ignored)
    if hook.pipeline_id is not None:
        return Started(TriggerOutcome.FILTERED, "the pipeline of the hook has no event trigger")
    return Started(TriggerOutcome.FILTERED, f"no pipeline of namespace {hook.namespace!r} has an event trigger")


def _trigger(hook: HookRow, delivery: DeliveryRow, row: TriggerRow, event: ForgeEvent) -> Trigger:
    return Trigger(
        TriggerType.EVENT,
        triggered_by=event.actor or f"hook {hook.name}",
        branch=event.ref,
        commit_sha=event.commit,
        variables=row.trigger.variables,
        request_id=delivery_request(delivery.id, row.digest),
        actor=_actor(hook.forge, event),
        event=event.context(),
        repository=event.repository,
    )


def _actor(forge: Forge, event: ForgeEvent) -> str:
    """Return who acts, as nobody can choose it: by the id at the code host, not by the name."""
    return f"{forge.lower()}:{event.actor_id or event.actor}"


def _entry(hook: HookRow, delivery: DeliveryRow, event: ForgeEvent, row: TriggerRow | None, started: Started) -> Entry:
    key = f"hook:{delivery.id}" if row is None else f"hook:{delivery.id}:{row.pipeline_id}:{row.digest}"
    return Entry(
        key=key,
        type=TriggerType.EVENT,
        namespace=hook.namespace,
        outcome=started.outcome,
        pipeline_id=hook.pipeline_id if row is None else row.pipeline_id,
        trigger_index=-1 if row is None else row.index,
        hook_id=hook.id,
        delivery_id=delivery.delivery_id,
        reason=clean_line(started.reason),
        run_id=started.run_id,
        summary=event.summary(),
    )


def _repeated(hook: HookRow, delivery: DeliveryRow, event: ForgeEvent) -> Entry:
    return Entry(
        key=f"duplicate:{delivery.id}",
        type=TriggerType.EVENT,
        namespace=hook.namespace,
        outcome=TriggerOutcome.DUPLICATE,
        pipeline_id=hook.pipeline_id,
        hook_id=hook.id,
        delivery_id=delivery.delivery_id,
        reason=f"the same delivery came before: {delivery.outcome or _IN_WORK}",
        summary=event.summary(),
    )
