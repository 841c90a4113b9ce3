"""Schedules: every tick fires at most once, whatever dies in between and however many servers look."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from uuid import UUID

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import runs, trigger_events, triggers
from arcentra_server.db.bad_rows import BadRows
from arcentra_server.db.clock import Clock, database_time
from arcentra_server.db.engine import Database
from arcentra_server.db.triggered_runs import StartRun, start_triggered
from arcentra_server.db.triggers import Fired, TriggerRow, Unreadable
from arcentra_server.domain.cron import read_schedule
from arcentra_server.domain.cron_ticks import DueTicks, plan_ticks
from arcentra_server.domain.definition import CronTrigger
from arcentra_server.domain.errors import Unavailable
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.states import TriggerType
from arcentra_server.domain.trigger_entries import Entry, TriggerOutcome, tick_request

LARGEST_BATCH = 20
CLAIM_SECONDS = 15.0  # what a server gets for a batch before others look at it too
ACTOR = "cron"
MISSED = "no server looked at it within {:.0f} s"
CAUGHT_UP = "caught up: it is the last tick that was missed"


class CronService:
    """See the module.

    A run is started first and noted afterwards; its request id is that of the tick, so whoever comes after a server that
    died between the two gets the same run.

    Args:
        database: The database.
        start: Starts a run.
        clock: The time.
        late_seconds: A tick that no server looked at for so long was missed.
    """

    def __init__(
        self, database: Database, start: StartRun, *, clock: Clock = database_time, late_seconds: float = 60.0
    ) -> None:
        self._database = database
        self._start = start
        self._clock = clock
        self._late_seconds = late_seconds
        self._bad = BadRows("cron")

    async def run_once(self) -> int:
        """Deal with every tick that is due; return how many runs were started.

        Raises:
            Unavailable: the database is away.
            ExceptionGroup: of schedules that could not be dealt with; the others were.
        """
        async with self._database.statements() as tx:
            seen_at = await self._clock(tx)
        # By when the pass began: at midnight it may take long, and what it gets to late was looked at in time.
        late_before = seen_at - timedelta(seconds=self._late_seconds)
        fired, errors = 0, []
        while due := await self._claim():
            crashpoint("cron.claimed")
            for row, now in due:
                key = (row.pipeline_id, row.digest)
                if self._bad.passed_over([key]):
                    continue
                try:
                    fired += await self._settle(_readable(row), now, late_before)
                    self._bad.went_well([key])
                except Unavailable:
                    raise
                except Exception as error:  # noqa: BLE001 - raised below, with the others
                    self._bad.failed(key, error)
                    errors.append(error)
        if errors:
            raise ExceptionGroup("some schedules could not be dealt with", errors)
        return fired

    async def _claim(self) -> list[tuple[TriggerRow | Unreadable, datetime]]:
        async with self._database.statements() as tx:
            now = await self._clock(tx)
            return [(row, now) for row in await triggers.claim_due(tx, now, CLAIM_SECONDS, LARGEST_BATCH)]

    async def _settle(self, row: TriggerRow, now: datetime, late_before: datetime) -> int:
        first, trigger = row.next_at, row.trigger
        if first is None or not isinstance(trigger, CronTrigger):
            return 0
        try:
            schedule = read_schedule(trigger.schedule, trigger.time_zone)
        except ValueError as error:
            await self._write(row, first, None, now, [_entry(row, first, TriggerOutcome.REFUSED, str(error))])
            return 0
        # In a thread: the ticks of a long outage take a moment to count.
        plan = await asyncio.to_thread(plan_ticks, schedule, trigger.catch_up, first, now, late_before)
        if plan.missed and not await self._note_missed(row, first, plan, now):
            return 0
        fired = 0
        for tick, following in zip(plan.fire, [*plan.fire[1:], plan.next_at], strict=False):
            fired += await self._fire(row, trigger, tick, following, now, late=tick < late_before)
        return fired

    async def _fire(
        self,
        row: TriggerRow,
        trigger: CronTrigger,
        tick: datetime,
        following: datetime | None,
        now: datetime,
        *,
        late: bool,
    ) -> int:
        started = await start_triggered(
            self._start,
            row.pipeline_id,
            Trigger(
                TriggerType.CRON,
                triggered_by=ACTOR,
                branch=trigger.branch,
                variables=trigger.variables,
                request_id=tick_request(row.digest, tick),
                actor=ACTOR,
            ),
        )
        crashpoint("cron.started")
        reason = started.reason or (CAUGHT_UP if late else "")
        entry = _entry(row, tick, started.outcome, reason, started.run_id)
        await self._write(row, tick, following, now, [entry])
        crashpoint("cron.noted")
        return int(started.run_id is not None)

    async def _note_missed(self, row: TriggerRow, first: datetime, plan: DueTicks, now: datetime) -> bool:
        """Write down what was missed; answer whether the schedule still waited for the first of it.

        Of that one a run may have been started by a server that died before it could note it. Of later ones not: a
        schedule waits for them before they are started.
        """
        following = [*plan.fire, plan.next_at][0]
        reason = MISSED.format(self._late_seconds)
        entries = [_entry(row, tick, TriggerOutcome.MISSED, reason) for tick in plan.missed]
        if plan.last_missed is not None:
            key = f"missed:{row.pipeline_id}:{row.digest}:{int(plan.last_missed.timestamp())}"
            entries.append(_entry(row, plan.last_missed, TriggerOutcome.MISSED, plan.more(), key=key))
        async with self._database.transaction() as tx:
            run_id = await runs.of_request(tx, row.pipeline_id, tick_request(row.digest, first))
        if run_id is not None:
            entries[0] = _entry(row, first, TriggerOutcome.FIRED, run_id=run_id)
        return await self._write(row, first, following, now, entries, only_if_waited=run_id is None)

    async def _write(
        self,
        row: TriggerRow,
        tick: datetime,
        following: datetime | None,
        now: datetime,
        entries: list[Entry],
        *,
        only_if_waited: bool = False,
    ) -> bool:
        """Write entries and let the schedule wait for another tick; answer whether it waited for this one."""
        fired = [Fired(row.pipeline_id, row.digest, entry.run_id) for entry in entries if entry.run_id is not None]
        async with self._database.transaction() as tx:
            waited = await triggers.advance(tx, row, tick, following, now)
            if waited or not only_if_waited:
                await trigger_events.append(tx, entries, now)
            await triggers.note_fired(tx, fired, now)
        return waited


def _readable(row: TriggerRow | Unreadable) -> TriggerRow:
    if isinstance(row, Unreadable):
        raise row.error
    return row


def _entry(
    row: TriggerRow,
    tick: datetime,
    outcome: TriggerOutcome,
    reason: str = "",
    run_id: UUID | None = None,
    *,
    key: str = "",
) -> Entry:
    trigger = row.trigger
    summary = f"{trigger.schedule} {trigger.time_zone}" if isinstance(trigger, CronTrigger) else ""
    return Entry(
        key=key or f"cron:{row.pipeline_id}:{row.digest}:{int(tick.timestamp())}",
        type=TriggerType.CRON,
        namespace=row.namespace,
        outcome=outcome,
        pipeline_id=row.pipeline_id,
        trigger_index=row.index,
        tick_at=tick,
        reason=reason,
        run_id=run_id,
        summary=summary,
    )
