from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.db.events import Snapshot
from arcentra_server.domain.errors import ValidationError
from arcentra_server.services.journal.cursor import END, Cursor, View, key
from tests.support.journal import SOME_ID, event_row

numbers = st.integers(0, 10**18)
keys = st.one_of(st.just(END), st.builds(lambda kind, n: kind + UUID(int=n).hex, st.sampled_from("ajrs"), numbers))
views = st.builds(View, keys, st.builds(Snapshot, numbers, numbers, st.frozensets(numbers, max_size=4)))
cursors = st.builds(Cursor, numbers, st.just(0), st.just(())) | st.builds(
    Cursor, numbers, numbers, st.lists(views, min_size=1, max_size=3).map(tuple)
)


@given(cursors)
def test_a_cursor_is_read_as_it_was_written(cursor: Cursor) -> None:
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text", ["x", "-1", "1 ", "1.2", "1.2.", "1.2.~", "1.2.~-1", "1.2.q-1-2", "9" * 19, "1.2.~-1-2_", "1" * 20_000]
)
def test_anything_else_is_refused_at_its_field(text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Cursor.parse(text)
    assert [fault.path for fault in caught.value.faults] == ["after_event_id"]


def test_what_a_told_state_holds_is_no_news() -> None:
    moment = Snapshot(100, 105, frozenset({102}))
    cursor = Cursor(10).seen(View(END, moment), last=20)
    assert not cursor.tells(event_row(9, xid=102))
    assert not cursor.tells(event_row(11, xid=99))
    assert not cursor.tells(event_row(11, xid=104))
    assert cursor.tells(event_row(11, xid=102))
    assert cursor.tells(event_row(11, xid=105))
    assert cursor.after(11).views
    assert not cursor.after(20).views


def test_each_part_of_a_state_that_was_told_in_parts_has_its_own_moment() -> None:
    first, second = Snapshot(100, 100, frozenset()), Snapshot(110, 110, frozenset())
    own = key(event_row(1, xid=1))
    before = Cursor(10).seen(View("r" + UUID(int=0).hex, first), 15)
    cursor = before.seen(View(END, second), 25)
    assert own == "r" + SOME_ID.hex
    assert before.told_until < own
    assert not cursor.tells(event_row(12, xid=105))
    assert Cursor(10).seen(View(own, first), 15).seen(View(END, second), 25).tells(event_row(12, xid=105))
