"""What all tables are made of: one set of names for constraints, and short forms of the columns they share."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, ForeignKey, Integer, MetaData, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID

from arcentra_server.domain.states import RunStatus, StepStatus

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def identity(name: str = "id", *, key: bool = False, to: str | None = None, null: bool = False) -> Column[object]:
    """Return a column of ids; `to`: the column it refers to, whose row takes this one with it."""
    references = [ForeignKey(to, ondelete="CASCADE")] if to else []
    return Column(name, UUID(as_uuid=True), *references, primary_key=key, nullable=null)


def words(name: str, *, null: bool = False, default: str | None = "") -> Column[object]:
    """Return a column of text; `default` None: it has to be given."""
    return Column(name, Text, nullable=null, server_default=None if null or default is None else text(f"'{default}'"))


def whole(name: str, default: int | None = 0, *, null: bool = False, big: bool = False) -> Column[object]:
    """Return a column of whole numbers; `default` None: it has to be given."""
    return Column(
        name,
        BigInteger if big else Integer,
        nullable=null,
        server_default=None if null or default is None else text(str(default)),
    )


def moment(name: str, *, null: bool = True, now: bool = False) -> Column[object]:
    """Return a column of times; `now`: by default the time of the insert."""
    return Column(name, TIMESTAMP(timezone=True), nullable=null, server_default=func.clock_timestamp() if now else None)


def flag(name: str, default: str = "false") -> Column[object]:
    """Return a column of yes or no."""
    return Column(name, Boolean, nullable=False, server_default=text(default))


def document(name: str, default: str = "{}") -> Column[object]:
    """Return a column of JSON."""
    return Column(name, JSONB, nullable=False, server_default=text(f"'{default}'"))


def one_of(column: str, values: type[StrEnum] | frozenset[StepStatus] | tuple[str, ...], name: str) -> CheckConstraint:
    """Return the rule that a column holds one of these texts."""
    listed = ", ".join(f"'{value}'" for value in sorted(str(value) for value in values))
    return CheckConstraint(f"{column} IN ({listed})", name=name)


def ended(states: frozenset[StepStatus] | frozenset[RunStatus]) -> CheckConstraint:
    """Return the rule that `finished_at` is set if and only if the state is final."""
    listed = ", ".join(f"'{state}'" for state in sorted(states))
    return CheckConstraint(f"(finished_at IS NOT NULL) = (status IN ({listed}))", name="ended")
