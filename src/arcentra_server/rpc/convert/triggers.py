"""Triggers, hooks and the ledger between the contract and the services."""

from __future__ import annotations

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.db.hooks import HookRow
from arcentra_server.db.trigger_events import TriggerEventRow
from arcentra_server.db.triggers import TriggerRow
from arcentra_server.domain.cron import read_schedule
from arcentra_server.domain.definition import CronTrigger
from arcentra_server.domain.forge import Forge
from arcentra_server.domain.hooks import hook_path
from arcentra_server.domain.trigger_entries import TriggerOutcome
from arcentra_server.rpc.context import existing_id
from arcentra_server.rpc.convert.definition_out import triggers_to_proto
from arcentra_server.rpc.convert.enums import TRIGGER_TYPE, EnumMap
from arcentra_server.rpc.convert.fields import plain_text, unix_seconds
from arcentra_server.services.hooks import NewHook

TRIGGER_OUTCOME = EnumMap(TriggerOutcome, pipeline_pb2.TriggerOutcome)
FORGE = EnumMap(Forge, admin_pb2.Forge)


def trigger_to(row: TriggerRow) -> pipeline_pb2.TriggerDetail:
    """Return a trigger as it is shown."""
    [trigger] = triggers_to_proto([row.trigger])
    return pipeline_pb2.TriggerDetail(
        pipeline_id=str(row.pipeline_id),
        pipeline_name=row.pipeline_name,
        namespace=row.namespace,
        trigger_index=row.index,
        type=trigger.type,
        options=trigger.options,
        next_at=unix_seconds(row.next_at),
        last_fired_at=unix_seconds(row.last_fired_at),
        last_run_id=str(row.last_run_id or ""),
        explanation=_explanation(row.trigger) if isinstance(row.trigger, CronTrigger) else "",
    )


def _explanation(trigger: CronTrigger) -> str:
    try:
        words = read_schedule(trigger.schedule, trigger.time_zone).explain()
    except ValueError as error:
        return str(error)
    return f"{words} ({trigger.time_zone})"


def trigger_event_to(row: TriggerEventRow) -> pipeline_pb2.TriggerEvent:
    """Return an entry of the ledger as it is shown."""
    times = f" ({row.count} times)" if row.count > 1 else ""
    return pipeline_pb2.TriggerEvent(
        trigger_event_id=str(row.id),
        at=unix_seconds(row.at),
        type=TRIGGER_TYPE.to_proto(row.type),
        namespace=row.namespace,
        pipeline_id=str(row.pipeline_id or ""),
        pipeline_name=row.pipeline_name,
        trigger_index=row.trigger_index,
        hook_id=str(row.hook_id or ""),
        delivery_id=row.delivery_id,
        tick_at=unix_seconds(row.tick_at),
        outcome=TRIGGER_OUTCOME.to_proto(row.outcome),
        reason=row.reason + times,
        run_id=str(row.run_id or ""),
        summary=row.summary,
    )


def new_hook(request: admin_pb2.CreateHookRequest) -> NewHook:
    """Read a new hook.

    Raises:
        ValidationError: the sender is not known, or a text holds a NUL.
        NotFound: the id is none that a pipeline can have.
    """
    return NewHook(
        name=plain_text(request.name, "name"),
        forge=FORGE.from_proto(request.forge, "forge"),
        namespace=plain_text(request.namespace, "namespace"),
        pipeline_id=existing_id(request.pipeline_id, "pipeline") if request.pipeline_id else None,
        secret=plain_text(request.secret, "secret"),
    )


def hook_to(row: HookRow) -> admin_pb2.HookDetail:
    """Return a hook as it is shown."""
    return admin_pb2.HookDetail(
        hook_id=str(row.id),
        namespace=row.namespace,
        pipeline_id=str(row.pipeline_id or ""),
        name=row.name,
        forge=FORGE.to_proto(row.forge),
        path=hook_path(row.id),
        created_at=unix_seconds(row.created_at),
        last_delivery_at=unix_seconds(row.last_delivery_at),
        created_by=row.created_by,
    )
