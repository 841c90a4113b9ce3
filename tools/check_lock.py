"""Hold requirements-dev.lock to pyproject.toml: every package it asks for is pinned, in a version that it allows.

Says nothing about what those packages need in turn: `make lock` resolves that. Exits 1 and names each fault.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.tree import ROOT


def wanted(pyproject: Path) -> list[Requirement]:
    document = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project, groups = document["project"], document.get("dependency-groups", {})
    lists = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values(), *groups.values()]
    return [Requirement(text) for texts in lists for text in texts]


def pinned(lock: Path) -> dict[str, list[str]]:
    """Return the versions of each package; one package has several where platforms differ."""
    versions: dict[str, list[str]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        name, equals, rest = line.partition("==")
        if equals and not line.startswith((" ", "#")):
            versions.setdefault(canonicalize_name(name), []).append(rest.split()[0])
    return versions


def faults(pyproject: Path, lock: Path) -> Iterator[str]:
    versions = pinned(lock)
    for requirement in wanted(pyproject):
        found = versions.get(canonicalize_name(requirement.name), [])
        if not found:
            yield f"{lock.name}: {requirement.name} is not pinned: run `make lock`"
        for version in found:
            if not requirement.specifier.contains(version, prereleases=True):
                yield f"{lock.name}: {requirement.name} is pinned to {version}, not {requirement.specifier}: run `make lock`"


if __name__ == "__main__":
    all_faults = list(faults(ROOT / "pyproject.toml", ROOT / "requirements-dev.lock"))
    print(*all_faults, sep="\n")
    sys.exit(bool(all_faults))
