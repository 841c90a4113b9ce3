"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, ProcessCollector


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # Memory, CPU and open files of the process, and how often Python looked for garbage.
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._calls = Counter(
            "arcentra_rpc_calls_total",
            "Calls that ended, by method and status.",
            ["method", "code"],
            registry=self.registry,
        )
        self._children: dict[tuple[str, str], Counter] = {}
        self.agents = Gauge("arcentra_agents_connected", "Agents that hold a push channel.", registry=self.registry)
        self._repairs = Counter(
            "arcentra_repairs_total",
            "Rows that did not fit together and were put right, by rule: none is right.",
            ["rule"],
            registry=self.registry,
        )
        self.leased = Counter("arcentra_step_runs_leased_total", "Step runs leased to agents.", registry=self.registry)

    def count_repairs(self, rule: str, count: int) -> None:
        """Count what the watchdog has put right."""
        self._repairs.labels(rule).inc(count)

    def observe_call(self, method: str, code: str) -> None:
        """Count one call."""
        child = self._children.get((method, code))
        if child is None:
            child = self._children[method, code] = self._calls.labels(method, code)
        child.inc()
