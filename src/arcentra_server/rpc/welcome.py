"""The beginning of an agent's channel, of either kind: whether it may come, and what it is told from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Set as AbstractSet
from uuid import UUID

from arcentra_server.domain.errors import Unauthenticated
from arcentra_server.domain.standing import Standing
from arcentra_server.rpc.channels import Outbox
from arcentra_server.rpc.parts import AgentParts
from arcentra_server.services.agents import REVOKED


class Welcome:
    """What is told to an agent while its channel is open.

    `rotate_in`: seconds until it is told to rotate its credential, None for never. The credential of a channel stays the
    same as long as it is open, so that this need not be looked up again. `started`: the leases whose steps it had started
    when it came.
    """

    def __init__(self, outbox: Outbox, rotate_in: float | None, started: AbstractSet[UUID] = frozenset()) -> None:
        self.started = started
        self._outbox = outbox
        self._rotate_at = None if rotate_in is None else asyncio.get_running_loop().time() + rotate_in

    def beaten(self, standing: Standing | None) -> None:
        """Take what a heartbeat answered: the channel of an agent that has left ends, others are told what is new.

        New is what differs from what the agent was told last, whoever told it: operators may ask any server.
        """
        if standing is None:
            self._outbox.fail(Unauthenticated(REVOKED))
            return
        rotate = self._rotate_at is not None and asyncio.get_running_loop().time() >= self._rotate_at
        self._outbox.change(standing, rotate=rotate)


async def welcome(parts: AgentParts, outbox: Outbox, token_id: str) -> Welcome:
    """Admit the agent of an outbox, and lay its settings ready.

    Raises:
        NotAdmitted: it waits for approval, or is disabled.
        Unauthenticated: it is gone, or its credential is.
    """
    briefing = await parts.agents.admit(outbox.agent_id, token_id)
    outbox.brief(parts.settings.at(briefing))
    return Welcome(outbox, briefing.rotate_in, briefing.started)
