"""The agent's one connection: the channel, and who the agent is on it."""

from dataclasses import dataclass
from pathlib import Path

from grpc import aio

from arcentra_agent.channel import bearer
from arcentra_agent.config import AgentConfig
from arcentra_agent.joining import Membership, join


@dataclass(slots=True)
class Link:
    """Shared by the stream of commands and the log shipper."""

    config: AgentConfig
    channel: aio.Channel
    credential_file: Path
    _membership: Membership | None = None
    _is_trusted: bool = False

    @property
    def membership(self) -> Membership:
        """Who the agent is, as far as it knows; only asked for after it has joined."""
        if self._membership is None:
            raise RuntimeError("the agent has not joined")
        return self._membership

    @property
    def agent_id(self) -> str:
        return self.membership.credential.agent_id

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return bearer(self.membership.credential.token)

    async def ensure_joined(self) -> None:
        """Register if this process has not yet, or was told that its credential is not valid. Raises as `join`."""
        if not self._is_trusted:
            self._membership = await join(self.config, self.channel, self.credential_file)
            self._is_trusted = True

    def distrust(self) -> None:
        """Register again before the next stream: the server does not know the credential."""
        self._is_trusted = False
