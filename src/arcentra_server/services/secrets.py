"""Secrets: set, listed by name, deleted. They are write-only: nothing here answers a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import secrets
from arcentra_server.db.engine import Database, Tx, new_id
from arcentra_server.db.secrets import SecretRow
from arcentra_server.domain.errors import Fault, NotFound, SecretUnreadable, ValidationError, WriteConflict
from arcentra_server.domain.field_checks import check_name
from arcentra_server.domain.secret_box import KEY_BYTES, KEY_UNAVAILABLE, KeyRing, RandomBytes, WrappedKey
from arcentra_server.domain.secret_names import (
    SecretScope,
    bound_to,
    check_secret_name,
    check_secret_value,
    warnings_about,
)

_ATTEMPTS = 3
_MARK = ("the key of the servers",)
_ONE_KEY = "give every server of this database the same secrets.key_file"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret that was set. `warnings`: what to mind about its value."""

    version: int
    warnings: Sequence[str]


class SecretService:
    """See the module.

    Args:
        database: Where secrets are kept.
        keys: The keys of the installation, with which they are sealed.
        random_bytes: Source of randomness.
    """

    def __init__(self, database: Database, keys: KeyRing, random_bytes: RandomBytes) -> None:
        self._database = database
        self._keys = keys
        self._random_bytes = random_bytes

    async def set(self, scope: SecretScope, name: str, value: str, set_by: str) -> StoredSecret:
        """Store a secret, or a new version of it. Steps that are dispatched from now on get the new value.

        Raises:
            ValidationError: the name, the value or the namespace has a fault.
            NotFound: no such pipeline.
            WriteConflict: it is set and deleted by others again and again.
        """
        faults = _check_scope(scope) + check_secret_name(name) + check_secret_value(value)
        if faults:
            raise ValidationError(faults)
        async with self._database.transaction() as tx:
            version = await self._store(tx, await _complete(tx, scope), name, value, set_by)
        crashpoint("secret.after_commit")
        return StoredSecret(version, warnings_about(value))

    async def _store(self, tx: Tx, scope: SecretScope, name: str, value: str, set_by: str) -> int:
        for _ in range(_ATTEMPTS):
            known = await secrets.lock_version(tx, scope, name)
            version = (known or 0) + 1
            sealed = self._keys.seal(value.encode(), bound_to(scope, name, version), self._random_bytes)
            if known is not None:
                await secrets.replace(tx, scope, name, version, sealed, set_by)
                return version
            if await secrets.insert(tx, new_id(), scope, name, sealed, set_by):
                return version
        raise WriteConflict("the secret is being changed by others, please repeat")

    async def list_all(self, namespace: str, pipeline_id: UUID | None) -> list[SecretRow]:
        """Return the names of secrets: those of a namespace and its pipelines, those of a pipeline, or all."""
        async with self._database.transaction() as tx:
            return await secrets.list_all(tx, namespace, pipeline_id)

    async def delete(self, scope: SecretScope, name: str) -> None:
        """Remove a secret. Steps that name it fail from now on, unless a wider scope has one of this name.

        Raises:
            ValidationError: the name or the namespace has a fault.
            NotFound: no such secret.
        """
        faults = _check_scope(scope) + check_secret_name(name)
        if faults:
            raise ValidationError(faults)
        async with self._database.transaction() as tx:
            if not await secrets.delete(tx, await _complete(tx, scope, deleted=True), name):
                raise NotFound(f"secret {name!r} not found in this scope")

    async def check_keys(self) -> None:
        """Say so in the log when secrets are stored whose key the server does not have, or other servers have another."""
        ours = self._keys.wrap(self._random_bytes(KEY_BYTES), _MARK, self._random_bytes)
        async with self._database.transaction() as tx:
            mark = await secrets.key_mark(tx, ours)
            same = self._opens(mark)
            # One that goes by the same id and is another opens nothing either.
            known = [key_id for key_id in self._keys.key_ids if same or key_id != mark.key_id]
            foreign = await secrets.foreign_keys(tx, known)
            if mark.key_id != ours.key_id if same else mark.key_id not in foreign:
                await secrets.replace_key_mark(tx, ours)
        if not same:
            _log.error("secrets_key_differs", key_ids=self._keys.key_ids, last_server=mark.key_id, action=_ONE_KEY)
        for key_id, count in foreign.items():
            _log.error("secrets_unreadable", reason=KEY_UNAVAILABLE, key_id=key_id, secrets=count)

    def _opens(self, mark: WrappedKey) -> bool:
        try:
            self._keys.unwrap(mark, _MARK)
        except SecretUnreadable:
            return False
        return True


def _check_scope(scope: SecretScope) -> list[Fault]:
    return check_name(scope.namespace, "namespace") if scope.namespace else []


async def _complete(tx: Tx, scope: SecretScope, *, deleted: bool = False) -> SecretScope:
    """Return a scope as it is stored: that of a pipeline has its namespace too. `deleted`: one that is deleted counts."""
    if scope.pipeline_id is None:
        return scope
    namespace = await secrets.namespace_of_pipeline(tx, scope.pipeline_id, deleted=deleted)
    if namespace is None or scope.namespace not in {"", namespace}:
        where = f" in namespace {scope.namespace!r}" if scope.namespace else ""
        raise NotFound(f"pipeline {str(scope.pipeline_id)!r} not found{where}")
    return replace(scope, namespace=namespace)
