"""The ledger of triggers: what happened, and what came of it; and the keys by which nothing comes of it twice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from arcentra_server.domain.definition import TriggerSpec
from arcentra_server.domain.definition_json import trigger_to_json
from arcentra_server.domain.states import TriggerType

RESERVED_REQUESTS = ("cron:", "hook:")
"""How the request ids of ticks and deliveries begin; nobody else may use one, or could keep their run from starting."""


class TriggerOutcome(StrEnum):
    """What came of a tick or a delivery."""

    FIRED = "FIRED"
    FILTERED = "FILTERED"
    DUPLICATE = "DUPLICATE"
    MISSED = "MISSED"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry to be written. Of one `key` there is one entry."""

    key: str
    type: TriggerType
    namespace: str
    outcome: TriggerOutcome
    pipeline_id: UUID | None = None
    trigger_index: int = -1
    hook_id: UUID | None = None
    delivery_id: str = ""
    tick_at: datetime | None = None
    reason: str = ""
    run_id: UUID | None = None
    summary: str = ""


def trigger_digest(trigger: TriggerSpec) -> str:
    """Return what a trigger goes by: it stays the same when the definition around it changes."""
    text = json.dumps(trigger_to_json(trigger), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def tick_request(digest: str, tick: datetime) -> str:
    """Return the request id of the run of a tick, of which a pipeline has one."""
    return f"cron:{digest}:{int(tick.timestamp())}"


def delivery_request(delivery: UUID, digest: str) -> str:
    """Return the request id of the run that a delivery starts by a trigger."""
    return f"hook:{delivery}:{digest}"
