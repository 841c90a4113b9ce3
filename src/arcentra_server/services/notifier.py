"""Notifications: sent from the outbox, tried again with growing pauses, given up in the end; and the log of it all.

What goes wrong here is written into the log and changes nothing else: a run is what it is, whoever hears of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import structlog

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import notifications
from arcentra_server.db.contexts import job_context
from arcentra_server.db.engine import Database
from arcentra_server.db.notifications import NotificationRow
from arcentra_server.db.paging import Page
from arcentra_server.db.vault import Vault
from arcentra_server.domain.deliveries import (
    MOST_ATTEMPTS,
    Delivery,
    Message,
    Undeliverable,
    again_in,
    message_of,
)
from arcentra_server.domain.errors import SecretUnreadable, Unavailable, WriteConflict
from arcentra_server.domain.expressions import ExpressionError, fill_secrets, render_value, secrets_in

CLAIM = timedelta(seconds=120)  # longer than an attempt can take: start of a process, and the patience with it
KEPT = timedelta(days=90)
_FORGOTTEN_AT_ONCE = 1_000
_log = structlog.get_logger()


class Sender(Protocol):
    """What carries messages out of the server."""

    async def send(self, message: Message) -> Delivery:
        """Send a message; whatever happens is an answer."""
        ...


class Notifier:
    """See the module. Several servers may work on one outbox.

    Args:
        database: Where the outbox is.
        vault: The secrets that arguments refer to.
        sender: Sends messages.
        jitter: A random number from 0 to 1, by which pauses differ.
        lanes: How many messages are sent at a time.
        run_url: Address of a page about a run, with `{run_id}` in it; empty for none.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        sender: Sender,
        jitter: Callable[[], float],
        *,
        lanes: int = 2,
        run_url: str = "",
    ) -> None:
        self._database = database
        self._vault = vault
        self._sender = sender
        self._jitter = jitter
        self._lanes = lanes
        self._run_url = run_url

    async def run_once(self) -> None:
        """Send everything that is due.

        Raises:
            ExceptionGroup: the database is away.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(self._lanes):
                group.create_task(self._send_all())

    async def forget(self) -> None:
        """Delete what is older than 90 days."""
        while True:
            async with self._database.transaction() as tx:
                if await notifications.forget(tx, KEPT, _FORGOTTEN_AT_ONCE) < _FORGOTTEN_AT_ONCE:
                    return

    async def list_page(
        self, *, pipeline_id: UUID | None, run_id: UUID | None, page: Page
    ) -> tuple[list[NotificationRow], int]:
        """Return one page of notifications, the newest first, and how many there are."""
        async with self._database.transaction(snapshot=True) as tx:
            return await notifications.list_page(tx, pipeline_id=pipeline_id, run_id=run_id, page=page)

    async def _send_all(self) -> None:
        while True:
            # Committed before anything is tried, so that one that cannot even be read does not stay the first in line.
            async with self._database.statements() as tx:
                claimed = await notifications.claim(tx, lapse=CLAIM, most_attempts=MOST_ATTEMPTS)
            if claimed is None:
                return
            notification_id, number = claimed
            crashpoint("notify.claimed")
            delivery = await self._attempt(notification_id)
            crashpoint("notify.sent")
            pause = again_in(number, delivery, self._jitter())
            async with self._database.transaction() as tx:
                await notifications.settle(tx, notification_id, number, delivery, pause)
            crashpoint("notify.settled")
            if not delivery.delivered:
                _log.warning(
                    "notification_failed",
                    notification_id=str(notification_id),
                    attempt=number,
                    error=delivery.error,
                    again=pause is not None,
                )

    async def _attempt(self, notification_id: UUID) -> Delivery:
        try:
            message = await self._message(notification_id)
        except (Undeliverable, ExpressionError) as error:
            return Delivery(delivered=False, error=str(error), permanent=True)
        except SecretUnreadable as error:
            return Delivery(delivered=False, error=str(error))
        except (Unavailable, WriteConflict):
            raise
        except Exception as error:  # noqa: BLE001 - one bad row keeps no other from being sent
            _log.exception("notification_not_made", notification_id=str(notification_id))
            return Delivery(delivered=False, error=f"internal error: {type(error).__name__}")
        return await self._sender.send(message)

    async def _message(self, notification_id: UUID) -> Message:
        async with self._database.transaction() as tx:
            due = await notifications.due(tx, notification_id)
            context = await job_context(tx, due.notice.job_run_id) if due is not None else None
            if due is None or context is None:
                raise Undeliverable("the run was deleted")
            scope = (due.notice.namespace, due.notice.pipeline_id)
            opened = await self._vault.values(tx, [(*scope, name) for name in secrets_in(due.args)])
        for fault in opened.faults.values():
            raise fault
        args = render_value(due.args, context)
        filled = _filled(args, {name: value for (_, _, name), value in opened.values.items()})
        link = self._run_url.replace("{run_id}", str(due.notice.run_id))
        return message_of(due.plugin, filled, replace(due.notice, link=link))


def _filled(value: Any, secrets: Mapping[str, str]) -> Any:
    """Return rendered arguments with the secrets in place of the references to them."""
    if isinstance(value, str):
        return fill_secrets(value, secrets)
    if isinstance(value, Mapping):
        return {name: _filled(item, secrets) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(item, secrets) for item in value]
    return value
