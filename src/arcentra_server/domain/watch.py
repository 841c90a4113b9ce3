"""What a status stream tells of."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from arcentra_server.domain.execution import Resource


@dataclass(frozen=True, slots=True)
class Filter:
    """Which resources to tell of. What is empty does not restrict; what is not must all hold.

    `ids` are of the resources themselves, the others of what they belong to. `job_name` is that of a step's job.
    """

    resources: frozenset[Resource]
    ids: frozenset[UUID] = field(default_factory=frozenset)
    job_ids: frozenset[UUID] = field(default_factory=frozenset)
    run_ids: frozenset[UUID] = field(default_factory=frozenset)
    pipeline_ids: frozenset[UUID] = field(default_factory=frozenset)
    job_name: str = ""

    @property
    def names_something(self) -> bool:
        """Whether single things are named, rather than whatever there is."""
        return bool(self.ids or self.job_ids or self.run_ids)

    def admits(
        self, resource: Resource, own_id: UUID, job_id: UUID | None, run_id: UUID | None, pipeline_id: UUID | None
    ) -> bool:
        """Answer whether to tell of a resource, as far as its ids say: its job's name is for the reader to check."""
        return (
            resource in self.resources
            and (not self.ids or own_id in self.ids)
            and (not self.job_ids or job_id in self.job_ids)
            and (not self.run_ids or run_id in self.run_ids)
            and (not self.pipeline_ids or pipeline_id in self.pipeline_ids)
        )


@dataclass(frozen=True, slots=True)
class Scope:
    """What a stream is bound to.

    `named`: the resources at whose end it ends; `open`: those of them that have not ended; `run_ids`: the only runs that
    can matter, None for any.
    """

    named: frozenset[UUID] = field(default_factory=frozenset)
    open: frozenset[UUID] = field(default_factory=frozenset)
    run_ids: frozenset[UUID] | None = None
