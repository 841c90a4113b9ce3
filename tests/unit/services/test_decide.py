"""What the triggers of a namespace make of one delivery."""

from uuid import UUID

from arcentra_server.db.triggers import TriggerRow
from arcentra_server.domain import matching
from arcentra_server.domain.definition import EventTrigger
from arcentra_server.domain.forge import ForgeEvent
from arcentra_server.services.webhooks import decide


def row(number: int, *paths: str) -> TriggerRow:
    trigger = EventTrigger(("push",), paths=paths)
    return TriggerRow(UUID(int=number), f"p{number}", "default", True, f"{number}", 0, trigger, None, None, None)


def test_all_triggers_share_what_a_delivery_may_take() -> None:
    event = ForgeEvent("push", paths=tuple(f"docs/{'a' * 240}/{number}" for number in range(3_000)))
    rows = [row(number, *(f"*{number}{glob}" for glob in range(2))) for number in range(3)]
    reasons = [verdict.reason for _, verdict in decide(rows, event)]
    assert reasons[0].startswith("paths: none of 3000 changed files")
    assert reasons[1:] == [matching.PATHS_TOO_MANY] * 2
    assert next(verdict.reason for _, verdict in decide(rows[1:2], event)).startswith("paths: none of")
