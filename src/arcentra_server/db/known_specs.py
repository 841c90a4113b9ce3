"""Definitions that were read, so that a run of one that was read before does not read it again."""

from __future__ import annotations

import json
from collections import OrderedDict
from uuid import UUID

from arcentra_server.db.engine import Tx
from arcentra_server.domain.definition import PipelineSpec
from arcentra_server.domain.definition_json import from_json

MOST_CHARACTERS = 8 * 1024 * 1024  # of the stored forms of what is kept; in memory it takes several times as much

Key = tuple[UUID, int, bytes]
"""A pipeline, a version of its definition, and the digest of that."""


class KnownSpecs:
    """Versions of definitions, those that were used last. A version never changes, so what is kept cannot be out of date.

    The digest is part of the key: a database that was brought back from a copy may have another version of that number.
    """

    def __init__(self, most_characters: int = MOST_CHARACTERS) -> None:
        self._most = most_characters
        self._size = 0
        self._known: OrderedDict[Key, tuple[int, PipelineSpec]] = OrderedDict()

    async def get(self, tx: Tx, pipeline_id: UUID, version: int, digest: bytes | None) -> tuple[PipelineSpec, bytes]:
        """Return a version of a definition that is stored, and its digest, which is None where that is not known yet."""
        if digest is not None and (found := self._known.get((pipeline_id, version, digest))):
            self._known.move_to_end((pipeline_id, version, digest))
            return found[1], digest
        [row] = await tx.fetch(
            "SELECT document::text AS document, digest FROM pipeline_specs WHERE pipeline_id = $1 AND version = $2",
            pipeline_id,
            version,
        )
        spec = from_json(json.loads(row["document"]))
        self._keep((pipeline_id, version, row["digest"]), len(row["document"]), spec)
        return spec, row["digest"]

    def _keep(self, key: Key, size: int, spec: PipelineSpec) -> None:
        if size > self._most:
            return
        if before := self._known.pop(key, None):
            self._size -= before[0]
        self._known[key] = size, spec
        self._size += size
        while self._size > self._most:
            _, (gone, _) = self._known.popitem(last=False)
            self._size -= gone
