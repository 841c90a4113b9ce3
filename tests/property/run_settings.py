"""How runs are tried: new examples each time, and what fails can be repeated from what is printed."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings


def run_settings(examples: int, steps: int = 50) -> settings:
    """Return the settings of one test. `steps`: of a state machine."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=False,
        print_blob=True,
        report_multiple_bugs=False,
        phases=tuple(phase for phase in Phase if phase is not Phase.explain),  # explaining takes minutes here
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
