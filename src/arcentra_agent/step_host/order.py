"""What a step host is told to do. It holds secrets: it goes through a pipe, never to the disk. Pure."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from arcentra_agent.step_host.lenient import known_fields


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One attempt of a step run, as the server dispatched it; `artifacts` are names."""

    step_run_id: str
    pipeline_id: str
    pipeline_run_id: str
    job_name: str
    step_name: str
    attempt: int
    uses: str
    action: str = ""
    image: str = ""
    timeout: str = ""
    artifacts: list[str] = field(default_factory=list)
    args: Mapping[str, object] = field(default_factory=dict, repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Local:
    """What the operator of the agent decided for its steps; see `AgentConfig`."""

    spool_limit: int = 0
    container_runtime: tuple[str, ...] = ()
    container_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """A step and what the agent adds: the directory it runs in and the environment that it starts from.

    `kill_grace` is the seconds between TERM and KILL, `deadline` the boot time up to which the step may run unless the
    agent gives it more.
    """

    spec: StepSpec
    workspace: str
    base_env: Mapping[str, str] = field(repr=False)
    kill_grace: float
    deadline: float
    local: Local = Local()

    def encoded(self) -> bytes:
        """Return the order as it goes through the pipe."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decoded(cls, data: bytes) -> "Order":
        """Read an order. The agent may be of another version, when it was upgraded while it runs.

        Raises:
            ValueError: when it is not whole: the agent ended while it was writing.
        """
        stored = json.loads(data)
        try:
            spec = StepSpec(**known_fields(StepSpec, stored.pop("spec")))
            local = known_fields(Local, stored.pop("local", {}))
            # JSON knows no tuples.
            words = {name: tuple(value) for name, value in local.items() if isinstance(value, list)}
            return cls(**{**known_fields(cls, stored), "spec": spec, "local": Local(**{**local, **words})})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not an order: {error}") from error
