"""Hooks and what is delivered to them, on the services of a world."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from arcentra_server.db.hooks import HookRow
from arcentra_server.db.paging import Page
from arcentra_server.db.trigger_events import TriggerEventRow
from arcentra_server.db.triggered_runs import StartRun
from arcentra_server.domain.definition import DEFAULT_NAMESPACE, EventTrigger, TriggerSpec
from arcentra_server.domain.forge import Forge
from arcentra_server.services.hooks import HookService, NewHook
from arcentra_server.services.pipelines import NewPipeline
from arcentra_server.services.triggers import TriggerService
from arcentra_server.services.webhooks import Answer, WebhookService
from tests.support.clock import FakeClock
from tests.support.deliveries import SECRET, Delivery
from tests.support.dying import DyingDatabase, Fuse, dying_start
from tests.support.shapes import shape
from tests.support.world import World

PUSH = EventTrigger(("push",))


class Hooks:
    """See the module. Every hook has the secret that the deliveries of the tests are signed with."""

    def __init__(self, world: World, clock: FakeClock) -> None:
        self.world = world
        self.clock = clock
        self.service = HookService(world.database, world.server.keys, clock=clock)
        self.ledger = TriggerService(world.database, clock=clock)

    def webhooks(self, start: StartRun | None = None, fuse: Fuse | None = None) -> WebhookService:
        database = DyingDatabase(self.world.database, fuse) if fuse else self.world.database
        start = start or self.world.server.starter.start
        start = dying_start(start, fuse) if fuse else start
        return WebhookService(database, self.world.server.keys, start, clock=self.clock)

    async def hook(self, forge: Forge, *, name: str = "", namespace: str = "", pipeline: UUID | None = None) -> HookRow:
        new = NewHook(name or f"{forge.lower()}", forge, namespace, pipeline, SECRET)
        row, _ = await self.service.create(new, "tester")
        return row

    async def pipeline(
        self, *triggers: TriggerSpec, name: str = "", namespace: str = DEFAULT_NAMESPACE, enabled: bool = True
    ) -> UUID:
        spec = replace(shape("."), triggers=triggers or (PUSH,))
        new = NewPipeline(spec, namespace=namespace, name=name, enabled=enabled)
        return await self.world.server.pipelines.create(new, "tester")

    async def deliver(self, hook: HookRow, one: Delivery) -> Answer:
        return await self.webhooks().deliver(hook, one.headers, one.body)

    async def entries(self, pipeline: UUID | None = None) -> list[TriggerEventRow]:
        """The ledger, the oldest entry first."""
        rows, _ = await self.ledger.list_events(
            pipeline_id=pipeline, namespace="", hook_id=None, outcome=None, page=Page(size=100)
        )
        return rows[::-1]

    async def told(self, pipeline: UUID | None = None) -> list[str]:
        return [f"{row.outcome} {row.reason}".strip() for row in await self.entries(pipeline)]

    async def runs(self) -> int:
        return int(await self.world.value("SELECT count(*) FROM pipeline_runs"))
