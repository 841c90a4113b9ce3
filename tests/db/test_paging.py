"""Pages: defaults, limits, and a closed list of what may be sorted by."""

import pytest

from arcentra_server.db.paging import LARGEST_PAGE_SIZE, Page
from arcentra_server.domain.errors import ValidationError

COLUMNS = {"created_at": "t.created_at", "name": "t.name"}


def test_defaults_are_the_first_twenty_the_newest_first() -> None:
    page = Page.of(0, 0, "", descending=False)
    assert (page.number, page.size, page.descending) == (1, 20, True)
    assert page.clause(COLUMNS) == "ORDER BY t.created_at DESC NULLS LAST, id DESC LIMIT 20 OFFSET 0"


def test_page_that_was_asked_for() -> None:
    page = Page.of(3, 50, "name", descending=False)
    assert page.clause(COLUMNS) == "ORDER BY t.name ASC NULLS LAST, id ASC LIMIT 50 OFFSET 100"
    assert Page.of(1, LARGEST_PAGE_SIZE, "name", descending=True).clause(COLUMNS).endswith("LIMIT 100 OFFSET 0")


@pytest.mark.parametrize(("number", "size"), [(-1, 0), (0, -1), (0, LARGEST_PAGE_SIZE + 1)])
def test_numbers_that_make_no_page(number: int, size: int) -> None:
    with pytest.raises(ValidationError):
        Page.of(number, size, "", descending=False)


@pytest.mark.parametrize("name", ["Name", "t.name", "name; DROP TABLE t", "name DESC", "id"])
def test_sorting_by_anything_else_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="invalid sort field; one of created_at, name"):
        Page.of(1, 10, name, descending=False).clause(COLUMNS)
