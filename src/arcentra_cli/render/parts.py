"""What tables are made of. Their cells are shown as they are, but for what would steer a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from arcentra_cli.terminal import visible


class PlainTable(Table):
    """A table whose cells are one line each, of which a terminal shows all and obeys nothing."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(cell if cell is None else plain(cell) for cell in cells), **options)


def plain(shown: RenderableType) -> RenderableType:
    """Return what is to be shown, of a text its visible form."""
    if isinstance(shown, str):
        return visible(shown)
    if isinstance(shown, Text):
        shown = shown.copy()
        shown.plain = visible(shown.plain)  # as long as before, so its styles stay where they are
    return shown


def columns(*names: str, right: Iterable[str] = ()) -> Table:
    """Return a table with these columns and no lines."""
    table = PlainTable(box=None, pad_edge=False, header_style="bold", collapse_padding=True, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name.upper(), justify="right" if name in right else "left", overflow="fold")
    return table


def pairs(rows: Iterable[tuple[str, str | Text | Sequence[str]]]) -> Table:
    """Return names and values, a row each, of several lines a row each; those without a value are left out."""
    grid = PlainTable.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in rows:
        lines = [value] if isinstance(value, (str, Text)) else value
        for number, line in enumerate(lines):
            if str(line) or number:
                grid.add_row(name if number == 0 else "", line)
    return grid


def mapping(entries: Mapping[str, str]) -> str:
    """Return `key=value` texts, sorted."""
    return ", ".join(f"{key}={entries[key]}" for key in sorted(entries))


def page(table: Table, shown: int, total: int, what: str) -> RenderableType:
    """Return a table with how much of the whole it is, or a sentence when it is empty."""
    if not shown:
        return Text(f"no {what}")
    return Group(table, Text(f"{shown} of {total} {what}", style="dim")) if shown < total else table
