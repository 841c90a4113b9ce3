"""What a step host is told to do. It holds secrets: it goes through a pipe, never to the disk. Pure."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


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
    action: str
    image: str
    timeout: str
    artifacts: list[str]
    args: Mapping[str, object] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, str] = field(repr=False)


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
        """Read an order.

        Raises:
            ValueError: when it is not whole: the agent ended while it was writing.
        """
        fields = json.loads(data)
        local = fields["local"]
        read = Local(local["spool_limit"], tuple(local["container_runtime"]), tuple(local["container_options"]))
        return cls(**{**fields, "spec": StepSpec(**fields["spec"]), "local": read})
