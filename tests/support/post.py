"""Where notifications go in tests that are not about sending them."""

from __future__ import annotations

from dataclasses import dataclass, field

from arcentra_server.domain.deliveries import Delivery, Message

SENT = Delivery(delivered=True, duration_ms=5)


@dataclass
class Post:
    """Takes messages; answers what it was told to, one after the other, else that they were delivered."""

    answers: list[Delivery] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)

    async def send(self, message: Message) -> Delivery:
        self.sent.append(message)
        return self.answers.pop(0) if self.answers else SENT
