from __future__ import annotations

import pytest
from sqlalchemy import CheckConstraint, Column, Index, Integer, MetaData, Table, text

from arcentra_server.db.embedded import EmbeddedPostgres
from arcentra_server.db.tables import metadata
from tools.check_migrations import compare, differences


def copied() -> MetaData:
    copy = MetaData(naming_convention=metadata.naming_convention)
    for table in metadata.sorted_tables:
        table.to_metadata(copy)
    return copy


def add_column(table: Table) -> None:
    table.append_column(Column("planted", Integer))


def add_check(table: Table) -> None:
    table.append_constraint(CheckConstraint("capacity < 1000", name="planted"))


def add_partial_index(table: Table) -> None:
    Index("ix_planted", table.c.name, postgresql_where=text("deleted_at IS NULL"))


def change_default(table: Table) -> None:
    table.c.capacity.server_default = Column("x", Integer, server_default=text("7")).server_default


@pytest.fixture(scope="module")
async def planted(postgres: EmbeddedPostgres) -> list[str]:
    """What the comparison says when the tables were changed in four ways without a migration."""
    tables = copied()
    for change in (add_column, add_check, add_partial_index, change_default):
        change(tables.tables["agents"])
    return await compare(postgres, tables)


@pytest.mark.parametrize(
    "named",
    [
        "column agents.planted: no migration makes it",
        "constraint agents.ck_agents_planted: no migration makes it",
        "index ix_planted: no migration makes it",
        "column agents.capacity: by the migrations: integer NOT NULL DEFAULT 1",
    ],
)
async def test_a_change_without_a_migration_is_named(planted: list[str], named: str) -> None:
    assert any(line.startswith(named) for line in planted), planted


async def test_nothing_else_is_named(planted: list[str]) -> None:
    assert len(planted) == 4, planted


def test_a_part_of_the_migrations_alone_is_named() -> None:
    assert list(differences({"table a": "", "table b": ""}, {"table a": ""})) == [
        "table b: the migrations make it, the tables do not have it"
    ]
