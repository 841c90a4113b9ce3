"""A place in a pipeline, and a run that has come to it: what the expressions of the tests name and are evaluated over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from arcentra_server.domain.expressions import Context, Names, Outcome

NAMES = Names(
    variables=frozenset({"tag", "region"}),
    env=frozenset({"MODE", "tag", "region"}),
    needs={"build": frozenset({"version"}), "unit-tests": frozenset()},
    steps=frozenset({"source", "compile"}),
    matrix=frozenset({"os", "python", "cores", "slow"}),
)
CONDITION = replace(NAMES, secrets=False, status_functions=True)
CONTEXT = Context(
    variables={"tag": "v1.2", "region": "eu"},
    env={"MODE": "fast"},
    branch="main",
    commit="c0ffee",
    run={
        "id": "r-1",
        "pipeline_id": "p-1",
        "pipeline": "shop",
        "namespace": "default",
        "trigger": "manual",
        "triggered_by": "ann",
    },
    job={"id": "j-1", "name": "test (linux, 3.12)", "definition_name": "test", "stage": "checks", "attempt": "1"},
    step={"name": "unit"},
    needs={
        "build": {"result": "success", "outputs": {"version": "3"}},
        "unit-tests": {"result": "failed", "outputs": {}},
    },
    steps={"compile": {"result": "success", "outputs": {"digest": "sha256:1", "size": "12"}}},
    matrix={"os": "linux", "python": 3.12, "cores": 4, "slow": False},
    event={
        "kind": "push",
        "title": "Fix: a thing",
        "draft": True,
        "number": 7,
        "files": ["docs/a.md", "src/b.py"],
        "labels": [{"name": "bug"}, {"name": "ci", "color": "red"}],
        "author": {"login": "ann"},
        "nothing": None,
    },
    outcome=Outcome.SUCCESS,
)


def context(**changes: Any) -> Context:
    return replace(CONTEXT, **changes)
