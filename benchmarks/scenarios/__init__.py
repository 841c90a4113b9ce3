"""The scenarios: one module each, with its `SCENARIO`. A new module is found by itself."""

import importlib
import pkgutil

from benchmarks.harness.scenario import Scenario


def all_scenarios() -> dict[str, Scenario]:
    """Every scenario by name.

    Raises:
        TypeError: a module here has no `SCENARIO`.
    """
    found = {}
    for module in pkgutil.iter_modules(__path__):
        scenario = getattr(importlib.import_module(f"{__name__}.{module.name}"), "SCENARIO", None)
        if not isinstance(scenario, Scenario):
            raise TypeError(f"{module.name} has no SCENARIO")
        found[scenario.name] = scenario
    return found
