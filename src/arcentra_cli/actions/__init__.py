"""What the commands do.

The modules are imported at first use: gRPC and the generated messages cost more time than the whole of `--help`.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arcentra_cli.actions import (
        agents,
        approvals,
        auth,
        concurrency,
        deployments,
        documents,
        hooks,
        logs,
        notifications,
        pipelines,
        runs,
        secrets,
        steps,
        triggers,
    )

__all__ = [
    "agents",
    "approvals",
    "auth",
    "concurrency",
    "deployments",
    "documents",
    "hooks",
    "logs",
    "notifications",
    "pipelines",
    "runs",
    "secrets",
    "steps",
    "triggers",
]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(name)
    return import_module(f"{__name__}.{name}")
