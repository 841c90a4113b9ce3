"""What the agent owes the server: reports and acknowledgements, in order, until the server has committed them. Pure."""

from collections import deque
from dataclasses import dataclass, field

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.steprun.v1 import steprun_pb2

Item = agent_pb2.TaskStatus | agent_pb2.TaskAck
# Reports carry outputs; a message has to stay below what a server receives (4 MiB), heartbeat included.
MESSAGE_BYTES = 1 << 20


@dataclass(slots=True)
class Outgoing:
    """The reports and acknowledgements of one message."""

    statuses: list[agent_pb2.TaskStatus] = field(default_factory=list)
    acks: list[agent_pb2.TaskAck] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.statuses or self.acks)


class Outbox:
    """Pending items are not sent on this stream yet; outstanding ones are, and wait for an acknowledgement.

    A lost stream makes all outstanding items pending again, in their old order, before anything newer: the server may
    get a report twice, and never out of order.
    """

    def __init__(self) -> None:
        self._pending: deque[Item] = deque()
        self._outstanding: deque[tuple[int, Item]] = deque()

    def __len__(self) -> int:
        return len(self._pending) + len(self._outstanding)

    @property
    def has_pending(self) -> bool:
        return bool(self._pending)

    def put(self, item: Item) -> None:
        self._pending.append(item)

    def take(self, sequence: int, limit: int) -> Outgoing:
        """Move up to `limit` items, oldest first, into the message numbered `sequence`; one at least, if there is any."""
        outgoing, room = Outgoing(), MESSAGE_BYTES
        for _ in range(min(limit, len(self._pending))):
            room -= self._pending[0].ByteSize()
            if room < 0 and outgoing:
                break
            item = self._pending.popleft()
            self._outstanding.append((sequence, item))
            if isinstance(item, agent_pb2.TaskAck):
                outgoing.acks.append(item)
            else:
                outgoing.statuses.append(item)
        return outgoing

    def acknowledge(self, sequence: int) -> list[agent_pb2.TaskStatus]:
        """Forget everything in messages up to `sequence`; return the reports among them, which are committed."""
        committed: list[agent_pb2.TaskStatus] = []
        while self._outstanding and self._outstanding[0][0] <= sequence:
            _, item = self._outstanding.popleft()
            if isinstance(item, agent_pb2.TaskStatus):
                committed.append(item)
        return committed

    def refuse(self, step_run_id: str, status: steprun_pb2.StepRunStatus.ValueType) -> agent_pb2.TaskStatus | None:
        """Forget the oldest outstanding report that a refusal names and return it; None when there is none.

        The refused report tells under which lease it was made: a refusal that meets an older lease of the same step
        run must not stop the newer one.
        """
        for entry in self._outstanding:
            item = entry[1]
            if isinstance(item, agent_pb2.TaskStatus) and (item.step_run_id, item.status) == (step_run_id, status):
                self._outstanding.remove(entry)
                return item
        return None

    def rewind(self) -> None:
        """Make everything outstanding pending again: the stream it went over is gone."""
        self._pending.extendleft(item for _, item in reversed(self._outstanding))
        self._outstanding.clear()

    def drop(self, step_run_id: str) -> None:
        """Forget every report of a step run the agent has nothing to say about any more."""
        self._pending = deque(item for item in self._pending if not _is_report_of(item, step_run_id))
        self._outstanding = deque(entry for entry in self._outstanding if not _is_report_of(entry[1], step_run_id))


def _is_report_of(item: Item, step_run_id: str) -> bool:
    return isinstance(item, agent_pb2.TaskStatus) and item.step_run_id == step_run_id
