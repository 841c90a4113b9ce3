from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.db.events import EventRow, Snapshot
from arcentra_server.services.journal.gaps import Gaps
from tests.support.journal import event_row


@dataclass
class FakeDatabase:
    """Transactions as PostgreSQL numbers them: an xid first, then ids of events, then an end in any order."""

    next_xid: int = 100
    next_id: int = 1
    running: dict[int, list[int]] = field(default_factory=dict)
    committed: dict[int, int] = field(default_factory=dict)

    def begin(self) -> None:
        self.running[self.next_xid] = []
        self.next_xid += 1

    def write(self, xid: int) -> None:
        self.running[xid].append(self.next_id)
        self.next_id += 1

    def end(self, xid: int, *, commit: bool) -> None:
        ids = self.running.pop(xid)
        if commit:
            self.committed.update(dict.fromkeys(ids, xid))

    def moment(self) -> Snapshot:
        return Snapshot(min(self.running, default=self.next_xid), self.next_xid, frozenset(self.running))

    def visible(self, after: int, limit: int) -> list[EventRow]:
        return [
            event_row(identity, xid=self.committed[identity]) for identity in sorted(self.committed) if identity > after
        ][:limit]

    def step(self, data: st.DataObject) -> None:
        match data.draw(st.sampled_from(["begin", "write", "write", "commit", "commit", "rollback"])):
            case "begin":
                self.begin()
            case action if self.running:
                xid = data.draw(st.sampled_from(sorted(self.running)))
                if action == "write":
                    self.write(xid)
                else:
                    self.end(xid, commit=action == "commit")


class Reader:
    def __init__(self, database: FakeDatabase, page: int) -> None:
        self.database = database
        self.page = page
        self.gaps = Gaps(max(database.committed, default=0), database.moment())
        self.told: list[int] = []

    def read(self) -> None:
        moment = self.database.moment()
        position = self.gaps.position
        if position is None:
            self.gaps.begin(moment)
        else:
            self.told += [event.id for event in self.gaps.settle(self.database.visible(position, self.page), moment)]


@given(st.data())
def test_every_event_is_told_once_and_in_order_whatever_the_commits_do(data: st.DataObject) -> None:
    database = FakeDatabase()
    for _ in range(data.draw(st.integers(0, 10))):
        database.step(data)
    reader = Reader(database, page=data.draw(st.integers(1, 5)))
    start: int | None = None
    for _ in range(data.draw(st.integers(0, 60))):
        database.step(data)
        if data.draw(st.booleans()):
            reader.read()
            if start is None and reader.gaps.position is not None:
                start = reader.gaps.position
                assert not any(identity <= start for ids in database.running.values() for identity in ids)
    for xid in sorted(database.running):
        database.end(xid, commit=data.draw(st.booleans()))
    for _ in range(2 * len(database.committed) + 3):
        reader.read()
    if start is None:
        start = reader.gaps.position if not reader.told else min(reader.told) - 1
    assert start is not None
    assert reader.told == [identity for identity in sorted(database.committed) if identity > start]
    assert not reader.gaps.is_open


def test_a_gap_waits_for_the_transactions_that_ran_when_it_was_seen_and_for_no_others() -> None:
    database = FakeDatabase()
    reader = Reader(database, page=10)
    reader.read()
    database.begin()  # 100 takes id 1 and will be rolled back
    database.write(100)
    database.begin()
    database.write(101)
    database.end(101, commit=True)
    reader.read()
    assert reader.told == []
    assert reader.gaps.is_open
    database.begin()  # 102 began after the gap was seen: it cannot fill it
    database.end(100, commit=False)
    reader.read()
    assert reader.told == [2]
    assert not reader.gaps.is_open
