"""What tables are made of."""

from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def columns(*names: str, right: Iterable[str] = ()) -> Table:
    """Return a table with these columns and no lines."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name.upper(), justify="right" if name in right else "left", overflow="fold")
    return table


def pairs(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Return names and values, a row each; those without a value are left out."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in rows:
        if str(value):
            grid.add_row(name, value)
    return grid


def mapping(entries: Mapping[str, str]) -> str:
    """Return `key=value` texts, sorted."""
    return ", ".join(f"{key}={entries[key]}" for key in sorted(entries))


def page(table: Table, shown: int, total: int, what: str) -> RenderableType:
    """Return a table with how much of the whole it is, or a sentence when it is empty."""
    if not shown:
        return Text(f"no {what}")
    return Group(table, Text(f"{shown} of {total} {what}", style="dim")) if shown < total else table
