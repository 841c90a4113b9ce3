"""The kinds of targets: which settings each has, and what is a fault of them.

A setting that holds a secret must refer to one. What `${{ }}` becomes is checked by the agent once more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from arcentra_server.domain.definition import TargetSpec
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.field_checks import check_args, check_leaks, unknown
from arcentra_server.domain.paths import check_path


class Setting(Enum):
    """What a setting holds."""

    TEXT = auto()
    PATH = auto()
    PATHS = auto()
    FLAG = auto()
    SECRET = auto()


@dataclass(frozen=True, slots=True)
class Target:
    """The settings of one kind: those in `needed` must be there, of those in `together` all or none."""

    settings: Mapping[str, Setting]
    needed: tuple[str, ...]
    together: tuple[str, ...] = ()


TARGETS: Mapping[str, Target] = {
    "k8s": Target(
        {
            "manifests": Setting.PATHS,
            "context": Setting.TEXT,
            "namespace": Setting.TEXT,
            "kubeconfig": Setting.SECRET,
            "wait": Setting.FLAG,
            "name": Setting.TEXT,
        },
        ("manifests",),
    ),
    "s3": Target(
        {
            "bucket": Setting.TEXT,
            "path": Setting.PATH,
            "prefix": Setting.TEXT,
            "endpoint": Setting.TEXT,
            "region": Setting.TEXT,
            "access_key": Setting.TEXT,
            "secret_key": Setting.SECRET,
            "name": Setting.TEXT,
        },
        ("bucket", "path"),
        ("access_key", "secret_key"),
    ),
    "command": Target({"script": Setting.TEXT, "name": Setting.TEXT}, ("script",)),
}
_NAMES_SECRET = re.compile(r"\$\{\{[^{}]*\bsecrets\b[^{}]*\}\}")
_WANTED = {
    Setting.TEXT: "a text",
    Setting.PATH: "a path",
    Setting.PATHS: "a list of paths",
    Setting.FLAG: "true or false",
    Setting.SECRET: "a text",
}


def check_target(spec: TargetSpec, path: str) -> list[Fault]:
    """Return every fault of a target."""
    target = TARGETS.get(spec.type)
    if target is None:
        wrong = unknown(spec.type, TARGETS) if spec.type else f"is required: one of {', '.join(TARGETS)}"
        return [Fault(f"{path}.type", wrong)]
    base = f"{path}.config"
    if found := check_args(spec.config, base):
        return found
    faults = []
    for name, value in spec.config.items():
        setting = target.settings.get(name)
        if setting is None:
            faults.append(Fault(f"{base}.{name[:80]}", unknown(name, target.settings)))
        else:
            faults += _check_setting(setting, value, f"{base}.{name}")
    if missing := [name for name in target.needed if not spec.config.get(name)]:
        faults.append(Fault(base, f"{spec.type} needs {' and '.join(missing)}"))
    if any(spec.config.get(name) for name in target.together) and not all(map(spec.config.get, target.together)):
        faults.append(Fault(base, f"{' and '.join(target.together)} go together"))
    return faults or check_leaks(spec.config, base)


def _check_setting(setting: Setting, value: Any, path: str) -> list[Fault]:
    if not _is_of(setting, value):
        return [Fault(path, f"must be {_WANTED[setting]}")]
    if setting is Setting.SECRET and value and not _NAMES_SECRET.search(value):
        return [Fault(path, "stands there in clear; use `${{ secrets.NAME }}`")]
    if setting is Setting.PATH and value:
        return check_path(value, path)
    if setting is Setting.PATHS:
        return [fault for index, item in enumerate(value) for fault in check_path(item, f"{path}[{index}]")]
    return []


def _is_of(setting: Setting, value: Any) -> bool:
    if setting is Setting.PATHS:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, bool if setting is Setting.FLAG else str)
