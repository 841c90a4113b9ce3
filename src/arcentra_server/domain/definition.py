"""The definition of a pipeline: what proto, YAML and JSON are read into, checked and stored as.

Texts that may hold `${{ }}` are kept as they were written; `domain/expressions` checks and evaluates them. How a
definition is stored is in `domain/definition_json.py`, what is a fault in `domain/definition_checks.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from arcentra_server.domain.selectors import Selector

DEFAULT_NAMESPACE = "default"
DEFAULT_STAGE = "default"
SOURCE_STEP = "source"
TARGET_STEP = "target"

Cell = Mapping[str, str | int | float | bool]
"""The values of one cell of a matrix, by axis."""


@dataclass(frozen=True, slots=True)
class ArtifactSpec:
    """Files to keep of a step: a path or glob in the workspace. `expire_days` None: as the server has it."""

    name: str
    path: str
    destination: str = ""
    expire_days: int | None = None


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One operation of a job. `uses` names the plugin of the agent, `action` what it does, `args` with what.

    `when`: CEL, empty for `success()`. `secrets`: name of the environment variable to name of the secret.
    """

    name: str
    uses: str
    action: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    continue_on_error: bool = False
    timeout_ms: int | None = None
    selector: Selector | None = None
    run_on_agent: bool = True
    when: str = ""
    image: str = ""
    artifacts: tuple[ArtifactSpec, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceAuth:
    """Access to a repository: references to secrets, `${{ secrets.NAME }}`; the user name may be in clear."""

    username: str = ""
    password: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True)
class GitSource:
    """Where the code of a job comes from; becomes its first step, `source`. `depth` 0: the whole history."""

    repo: str
    branch: str = ""
    auth: SourceAuth | None = None
    depth: int = 0
    submodules: bool = False


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """What a job deploys to; becomes its last step, `target`. `type`: `k8s`, `s3` or `command`."""

    type: str
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotificationSpec:
    """One message: `plugin` is the channel (webhook, slack, mail, ...), `args` its address, title and text."""

    plugin: str
    action: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotifySpec:
    """Whom to tell when a job has ended well, or has failed."""

    on_success: NotificationSpec | None = None
    on_failure: NotificationSpec | None = None


@dataclass(frozen=True, slots=True)
class ApprovalSpec:
    """A gate. No `approvers`: everybody with the role. `needed`: how many must approve. `timeout_ms` None: it waits."""

    approvers: tuple[str, ...] = ()
    needed: int = 1
    separation: bool = False
    timeout_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RetrySpec:
    """When a failed job runs again: `max_attempts` in all. `on` empty: any failure; else `failed` or failure reasons."""

    max_attempts: int
    delay_ms: int = 0
    on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MatrixSpec:
    """The values for which a job runs; see `domain/matrix.py` for the cells that it makes."""

    axes: tuple[tuple[str, tuple[str | int | float | bool, ...]], ...] = ()
    include: tuple[Cell, ...] = ()
    exclude: tuple[Cell, ...] = ()


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The smallest thing that is scheduled: its steps run in order on one agent in one workspace.

    `depends_on` names jobs of the same stage. `outputs` are texts over the outputs of its steps. `concurrency` is a key
    that `concurrency_limit` jobs of a namespace may hold at a time.
    """

    name: str
    steps: tuple[StepSpec, ...]
    description: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_ms: int | None = None
    source: GitSource | None = None
    selector: Selector | None = None
    depends_on: tuple[str, ...] = ()
    when: str = ""
    retry: RetrySpec | None = None
    priority: int = 0
    allow_failure: bool = False
    matrix: MatrixSpec | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    concurrency: str = ""
    concurrency_limit: int = 1
    cancel_in_progress: bool = False
    approval: ApprovalSpec | None = None
    target: TargetSpec | None = None
    notify: NotifySpec | None = None


@dataclass(frozen=True, slots=True)
class StageSpec:
    """Jobs of one step in the order of a run. `approval`: the gate before it."""

    name: str
    jobs: tuple[JobSpec, ...]
    approval: ApprovalSpec | None = None


class CatchUp(StrEnum):
    """What happens to ticks that were due while no server ran: nothing, or the last one fires."""

    NONE = "none"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class CronTrigger:
    """A schedule of 5 fields or an @name, in the named time zone of the IANA database."""

    schedule: str
    time_zone: str = "UTC"
    catch_up: CatchUp = CatchUp.NONE
    branch: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventTrigger:
    """Events of a code host: `push`, `tag`, `pull_request`, or names of a generic hook.

    `repos` (`owner/name`), `branches`, `tags` and `paths` are globs, `!` in front excludes; empty lets everything pass.
    The branch of a pull request is the one it wants to go to.
    """

    events: tuple[str, ...]
    branches: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    repos: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ManualTrigger:
    """Written down, and nothing more: every pipeline can be triggered by a call."""


TriggerSpec = CronTrigger | EventTrigger | ManualTrigger


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """What a run is made from. `jobs_only`: written without stages, and wrapped in one named `default`."""

    stages: tuple[StageSpec, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    jobs_only: bool = False
    timeout_ms: int | None = None
    triggers: tuple[TriggerSpec, ...] = ()

    def jobs(self) -> Iterator[tuple[str, JobSpec]]:
        """Yield each job with its field path, as the caller wrote it."""
        for stage_index, stage in enumerate(self.stages):
            prefix = "" if self.jobs_only else f"stages[{stage_index}]."
            for job_index, job in enumerate(stage.jobs):
                yield f"{prefix}jobs[{job_index}]", job
