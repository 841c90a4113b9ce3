"""The one place where values of secrets are opened: for the dispatch of the steps that name them, and for masking."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.domain.errors import SecretUnreadable
from arcentra_server.domain.secret_box import KeyRing, Sealed, WrappedKey, open_sealed
from arcentra_server.domain.secret_names import SecretScope, bound_to

Wanted = tuple[str, UUID, str]
"""Namespace, pipeline and name, as a step of the pipeline asks for a secret."""

MOST_DATA_KEYS = 1_000

# That of the pipeline, else that of its namespace, else the global one.
_NARROWEST = """
    SELECT w.place, s.namespace, s.pipeline_id, s.name, s.version, s.algorithm, s.key_id, s.wrapped_key, s.sealed
      FROM unnest($1::int[], $2::text[], $3::uuid[], $4::text[]) AS w(place, namespace, pipeline_id, name)
     CROSS JOIN LATERAL (
           SELECT * FROM secrets
            WHERE name = w.name AND namespace IN (w.namespace, '')
              AND (pipeline_id IS NULL OR pipeline_id = w.pipeline_id)
            ORDER BY pipeline_id NULLS LAST, namespace DESC LIMIT 1) s
"""
_KNOWN = """
    SELECT DISTINCT name FROM secrets
     WHERE name = ANY($3) AND namespace IN ($1, '') AND (pipeline_id IS NULL OR pipeline_id = $2)
"""


@dataclass(frozen=True, slots=True)
class Opened:
    """What was asked for: values, and those that are stored and cannot be opened. What is in neither is not stored."""

    values: Mapping[Wanted, str] = field(repr=False)
    faults: Mapping[Wanted, SecretUnreadable]


class Vault:
    """Opens secrets with the keys of the installation. One that does not open harms no other."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys
        self._data_keys: OrderedDict[tuple[WrappedKey, tuple[str, ...]], bytes] = OrderedDict()

    async def missing(self, tx: Tx, namespace: str, pipeline_id: UUID, names: Collection[str]) -> set[str]:
        """Return those of the names that no secret has which a pipeline may use."""
        if not names:
            return set()
        rows = await tx.fetch(_KNOWN, namespace, pipeline_id, list(names))
        return set(names) - {row["name"] for row in rows}

    async def values(self, tx: Tx, wanted: Iterable[Wanted]) -> Opened:
        """Return the values of secrets, each of the narrowest scope that has one; one query for all of them."""
        asked = list(dict.fromkeys(wanted))
        if not asked:
            return Opened({}, {})
        columns = [list(column) for column in zip(*asked, strict=True)]
        values: dict[Wanted, str] = {}
        faults: dict[Wanted, SecretUnreadable] = {}
        for row in await tx.fetch(_NARROWEST, list(range(len(asked))), *columns):
            key = asked[row["place"]]
            try:
                values[key] = self._open(row)
            except SecretUnreadable as error:
                faults[key] = error
        return Opened(values, faults)

    def _open(self, row: Row) -> str:
        scope = SecretScope(row["namespace"], row["pipeline_id"])
        name = bound_to(scope, row["name"], row["version"])
        sealed = Sealed(row["algorithm"], WrappedKey(row["key_id"], row["wrapped_key"]), row["sealed"])
        return open_sealed(sealed, name, self._data_key(sealed.key, name)).decode()

    def _data_key(self, key: WrappedKey, name: tuple[str, ...]) -> bytes:
        entry = (key, name)
        if entry in self._data_keys:
            self._data_keys.move_to_end(entry)
            return self._data_keys[entry]
        data_key = self._data_keys[entry] = self._keys.unwrap(key, name)
        if len(self._data_keys) > MOST_DATA_KEYS:
            self._data_keys.popitem(last=False)
        return data_key
