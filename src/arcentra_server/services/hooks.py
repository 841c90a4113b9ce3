"""Hooks: the addresses that code hosts deliver events to, each with a secret that both sides know."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from arcentra_server.db import hooks, pipelines
from arcentra_server.db.clock import Clock, database_time
from arcentra_server.db.engine import Database, Tx, new_id
from arcentra_server.db.hooks import HookRow
from arcentra_server.domain.definition import DEFAULT_NAMESPACE
from arcentra_server.domain.errors import Fault, NotFound, ValidationError
from arcentra_server.domain.field_checks import check_name
from arcentra_server.domain.forge import Forge
from arcentra_server.domain.hooks import MADE_PREFIX, bound_to, check_hook_secret
from arcentra_server.domain.secret_box import KeyRing

OVERLAP = timedelta(hours=24)  # for which the secret that was replaced stays good


@dataclass(frozen=True, slots=True)
class NewHook:
    """A hook as a caller wants it. Empty `namespace`: `default`; empty `secret`: one is made."""

    name: str
    forge: Forge
    namespace: str = ""
    pipeline_id: UUID | None = None
    secret: str = ""


class HookService:
    """See the module. Secrets are stored sealed by `keys`; nobody gets one back."""

    def __init__(
        self,
        database: Database,
        keys: KeyRing,
        *,
        clock: Clock = database_time,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock
        self._random_bytes = random_bytes

    async def create(self, new: NewHook, created_by: str) -> tuple[HookRow, str]:
        """Make a hook; return it and its secret, which is told this once.

        Raises:
            ValidationError: name, namespace or secret has a fault, or the pipeline is of another namespace.
            NotFound: no such pipeline.
            AlreadyExists: the name is taken in the namespace.
        """
        namespace = new.namespace or DEFAULT_NAMESPACE
        faults = check_name(new.name, "name") + check_name(namespace, "namespace")
        _raise_any(faults + (check_hook_secret(new.secret) if new.secret else []))
        hook_id, secret = new_id(), new.secret or self._made()
        async with self._database.transaction() as tx:
            if new.pipeline_id is not None:
                await _check_pipeline(tx, new.pipeline_id, namespace)
            row = await hooks.insert(
                tx,
                hook_id,
                namespace=namespace,
                pipeline_id=new.pipeline_id,
                name=new.name,
                forge=new.forge,
                created_by=created_by,
            )
            await self._store_secret(tx, hook_id, row.secret_version, secret)
        return row, secret

    async def list_all(self, namespace: str) -> list[HookRow]:
        """Return the hooks of a namespace, or all."""
        async with self._database.transaction() as tx:
            return await hooks.list_all(tx, namespace)

    async def rotate(self, hook_id: UUID, secret: str) -> str:
        """Give a hook a new secret, or one that is made; return it. The one before stays good for a day.

        Raises:
            NotFound: no such hook.
            ValidationError: the secret has a fault.
        """
        _raise_any(check_hook_secret(secret) if secret else [])
        secret = secret or self._made()
        async with self._database.transaction() as tx:
            row = await hooks.get(tx, hook_id, lock=True)
            if row is None:
                raise NotFound(f"hook {str(hook_id)!r} not found")
            await hooks.expire_secrets(tx, hook_id, row.secret_version, await self._clock(tx) + OVERLAP)
            await self._store_secret(tx, hook_id, row.secret_version + 1, secret)
        return secret

    async def delete(self, hook_id: UUID) -> None:
        """Delete a hook; what it delivered stays in the ledger.

        Raises:
            NotFound: no such hook.
        """
        async with self._database.transaction() as tx:
            if not await hooks.delete(tx, hook_id):
                raise NotFound(f"hook {str(hook_id)!r} not found")

    async def _store_secret(self, tx: Tx, hook_id: UUID, version: int, secret: str) -> None:
        sealed = self._keys.seal(secret.encode(), bound_to(hook_id, version), self._random_bytes)
        await hooks.add_secret(tx, hook_id, version, sealed)

    def _made(self) -> str:
        return f"{MADE_PREFIX}{self._random_bytes(32).hex()}"


def _raise_any(faults: list[Fault]) -> None:
    if faults:
        raise ValidationError(faults)


async def _check_pipeline(tx: Tx, pipeline_id: UUID, namespace: str) -> None:
    pipeline = await pipelines.get(tx, pipeline_id)
    if pipeline is None:
        raise NotFound(f"pipeline {str(pipeline_id)!r} not found")
    if pipeline.namespace != namespace:
        raise ValidationError.at(
            "pipeline_id", f"the pipeline is in namespace {pipeline.namespace!r}, not {namespace!r}"
        )
