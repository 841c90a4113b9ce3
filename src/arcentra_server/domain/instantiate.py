"""Turn a definition into the rows of one run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from types import MappingProxyType
from typing import Any
from uuid import UUID

from arcentra_server.domain.asked_sources import PlacedJob, asked_sources
from arcentra_server.domain.cell_selectors import selector_of
from arcentra_server.domain.definition import (
    SOURCE_STEP,
    TARGET_STEP,
    ApprovalSpec,
    ArtifactSpec,
    Cell,
    GitSource,
    JobSpec,
    PipelineSpec,
    StepSpec,
    TargetSpec,
)
from arcentra_server.domain.errors import LimitExceeded
from arcentra_server.domain.execution import ASKED, FIRST, OWN
from arcentra_server.domain.expressions import (
    Context,
    Outcome,
    Templates,
    is_template,
    literal,
    secrets_in,
    templates_of,
)
from arcentra_server.domain.matrix import cell_name, job_cells
from arcentra_server.domain.repositories import Repository
from arcentra_server.domain.selectors import ANY_AGENT, Selector
from arcentra_server.domain.states import TriggerType

NO_CELL: Cell = MappingProxyType({})
TARGET_PLUGINS = {"command": "shell"}
"""The plugin of each kind of target that is not named as its kind."""

COMMIT_VARIABLE = "ARCENTRA_COMMIT"
NOT_CLONED = "no source of the pipeline is of the repository of the event, so its branch and commit are not checked out"
ASKED_COMMIT = "commit"
"""The argument of a source step that those have, and only those, which clone what their run is about.

It is empty where the run was not asked for a commit."""

NAMED_BY_TEXTS = "ARCENTRA_SECRET_"
"""What the variables begin with by which secrets reach an agent that only the texts of a step name."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """What started a run, and with what.

    `actor`: the name of the credential; `event`: what expressions see of the event; `repository`: where it happened;
    `may_change`: whether who started it may change the definition, as the definition itself does that starts a run.
    """

    type: TriggerType
    triggered_by: str
    branch: str = ""
    commit_sha: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    request_id: str | None = None
    actor: str = ""
    event: Mapping[str, Any] = field(default_factory=dict)
    repository: Repository = field(default_factory=Repository)
    may_change: bool = True


@dataclass(frozen=True, slots=True)
class NewStep:
    """A step run to be stored. `env` is complete but for what `templates` holds; `workspace` names its folder.

    `secrets`: name of the environment variable to name of the secret, with all that its texts name.
    """

    id: UUID
    run_id: UUID
    job_id: UUID
    pipeline_id: UUID
    job_name: str
    name: str
    index: int
    uses: str
    action: str
    args: Mapping[str, Any]
    env: Mapping[str, str]
    workspace: str
    timeout_ms: int | None
    selector: Selector
    own_selector: bool
    continue_on_error: bool
    run_on_agent: bool
    image: str = ""
    artifacts: tuple[ArtifactSpec, ...] = ()
    condition: str = ""
    kind: str = ""
    templates: Templates | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)

    @property
    def dynamic(self) -> bool:
        """Whether something of it is evaluated when its turn comes."""
        return self.templates is not None or bool(self.secrets) or self.kind == SOURCE_STEP


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job run to be stored, with its steps in order. `needs`: the job runs that it depends on."""

    id: UUID
    name: str
    spec: JobSpec
    cell: Cell
    stage_index: int
    index: int
    steps: tuple[NewStep, ...]
    timeout_ms: int | None
    needs: tuple[UUID, ...] = ()

    @property
    def selector(self) -> Selector:
        return selector_of(self.spec.selector or ANY_AGENT, self.cell)

    @property
    def is_plain(self) -> bool:
        """Whether nothing has to be looked at before its first step is queued."""
        first = self.steps[0]
        return not (self.spec.when or self.spec.concurrency or first.condition or first.dynamic)


@dataclass(frozen=True, slots=True)
class NewStage:
    """A stage of a run. `gate`: who has to approve before it is entered."""

    name: str
    size: int
    gate: ApprovalSpec | None = None


@dataclass(frozen=True, slots=True)
class NewRun:
    """A pipeline run to be stored.

    `pins`: the commit that its sources keep to, as far as the trigger says; `not_cloned`: why none does, though it asks.
    """

    id: UUID
    pipeline_id: UUID
    namespace: str
    spec_version: int
    trigger: Trigger
    variables: Mapping[str, str]
    stages: tuple[NewStage, ...]
    jobs: tuple[NewJob, ...]
    timeout_ms: int | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
    not_cloned: str = ""

    def steps(self) -> Iterator[tuple[NewJob, NewStep]]:
        for job in self.jobs:
            for step in job.steps:
                yield job, step

    @property
    def starts_plainly(self) -> bool:
        """Whether the jobs of the first stage that need no other can be queued as they are stored."""
        first = [job for job in self.jobs if job.stage_index == 0]
        return self.stages[0].gate is None and all(job.is_plain for job in first if not job.needs)


def instantiate(
    spec: PipelineSpec,
    trigger: Trigger,
    *,
    pipeline_id: UUID,
    namespace: str,
    spec_version: int,
    new_id: Callable[[], UUID],
    job_timeout_ms: int | None = None,
    pipeline_name: str = "",
) -> NewRun:
    """Build the run of a definition: a job run for each job and each cell of its matrix.

    Args:
        spec: The definition.
        trigger: What starts it; its variables win over those of the pipeline.
        pipeline_id: The pipeline.
        namespace: That of the pipeline.
        spec_version: The version of the definition.
        new_id: Makes ids.
        job_timeout_ms: The time limit of jobs that state none.
        pipeline_name: The name of the pipeline.

    Raises:
        LimitExceeded: the addresses of its sources take too much to evaluate.
    """
    run_id = new_id()
    variables = {**spec.variables, **trigger.variables}
    env = run_env(variables, trigger.branch, trigger.commit_sha, namespace)
    base = _Base(run_id, pipeline_id, env, trigger, new_id)
    asks = bool(trigger.branch or trigger.commit_sha)
    placed = [
        [PlacedJob(new_id(), job, cell, stage.name) for job in stage.jobs for cell in job_cells(job)]
        for stage in spec.stages
    ]
    context = base.context(variables, namespace, pipeline_name)
    of_run = _sources_of_run(list(chain.from_iterable(placed)), context, trigger)
    jobs: list[NewJob] = []
    stages: list[NewStage] = []
    for stage_index, stage in enumerate(spec.stages):
        first = len(jobs)
        by_name: dict[str, list[UUID]] = {}
        for job in placed[stage_index]:
            place = len(jobs)
            limit = job.spec.timeout_ms or job_timeout_ms
            jobs.append(base.job(job, stage_index, place, limit, of_run=place in of_run))
            by_name.setdefault(job.spec.name, []).append(job.id)
        for place in range(first, len(jobs)):
            wanted = jobs[place].spec.depends_on
            if wanted:
                jobs[place] = replace(jobs[place], needs=tuple(one for name in wanted for one in by_name[name]))
        stages.append(NewStage(stage.name, len(jobs) - first, stage.approval))
    return NewRun(
        id=run_id,
        pipeline_id=pipeline_id,
        namespace=namespace,
        spec_version=spec_version,
        trigger=trigger,
        variables=variables,
        stages=tuple(stages),
        jobs=tuple(jobs),
        timeout_ms=spec.timeout_ms,
        pins=_pins(trigger) if of_run else {},
        not_cloned=NOT_CLONED if asks and not of_run and any(job.source for _, job in spec.jobs()) else "",
    )


def _sources_of_run(jobs: Sequence[PlacedJob], context: Context, trigger: Trigger) -> Collection[int]:
    """Return the places of the jobs whose source is what the run is about: its commit is that of the run.

    Where the run is asked for nothing it is the first source of the repository, and those that name the same branch.
    """
    if trigger.branch or trigger.commit_sha:
        return asked_sources(jobs, context, trigger.repository)
    try:
        places = sorted(asked_sources(jobs, context, trigger.repository))
    except LimitExceeded:
        return ()  # nothing of the clones depends on it here
    branches = {place: source.branch for place in places if (source := jobs[place].spec.source) is not None}
    return [place for place in places if branches[place] == branches[places[0]]]


def run_env(variables: Mapping[str, str], branch: str, commit_sha: str, namespace: str) -> dict[str, str]:
    """Return the environment that all steps of a run share; that of jobs and steps goes over it."""
    return {
        **variables,
        "ARCENTRA_BRANCH": branch,
        COMMIT_VARIABLE: commit_sha,
        "ARCENTRA_NAMESPACE": namespace,
    }


def new_step(
    step: StepSpec,
    index: int,
    *,
    step_id: UUID,
    job_id: UUID,
    run_id: UUID,
    pipeline_id: UUID,
    job_name: str,
    run_variables: Mapping[str, str],
    job_env: Mapping[str, str],
    job_selector: Selector | None = None,
    cell: Cell = NO_CELL,
    kind: str = "",
) -> NewStep:
    """Build one step run: what its texts need to be evaluated is kept aside, the rest is complete."""
    authored = {**job_env, **step.env}
    templates, named, fixed = None, frozenset[str](), authored
    if is_template([authored, step.args, step.image]):
        templates = templates_of(authored, step.uses, step.args, step.image)
        named = secrets_in([authored, step.args, step.image])
        fixed = {name: text for name, text in authored.items() if not is_template(text)}
    own = step.selector is not None
    return NewStep(
        id=step_id,
        run_id=run_id,
        job_id=job_id,
        pipeline_id=pipeline_id,
        job_name=job_name,
        name=step.name,
        index=index,
        uses=step.uses,
        action=step.action,
        args=step.args,
        env={**{name: text for name, text in run_variables.items() if name not in authored}, **fixed},
        workspace=f"{job_id}-{index}" if own else str(job_id),
        timeout_ms=step.timeout_ms,
        selector=selector_of(step.selector or job_selector or ANY_AGENT, cell),
        own_selector=own,
        continue_on_error=step.continue_on_error,
        run_on_agent=step.run_on_agent,
        image=step.image,
        artifacts=step.artifacts,
        condition=step.when,
        kind=kind,
        templates=templates,
        secrets=_secrets(step.secrets, named, {*run_variables, *authored}),
    )


def _secrets(given: Mapping[str, str], named: frozenset[str], written: Collection[str]) -> dict[str, str]:
    """Return the secrets of a step, those that only its texts name too, under variables that replace no other one."""
    secrets = dict(given)
    for name in sorted(named.difference(given.values())):
        variable = f"{NAMED_BY_TEXTS}{name}"
        while variable in secrets or variable in written:
            variable += "_"
        secrets[variable] = name
    return secrets


def _pins(trigger: Trigger) -> dict[str, str]:
    if trigger.commit_sha:
        return {ASKED: trigger.commit_sha}
    return {OWN: ""} if trigger.branch else {FIRST: ""}


def steps_of(job: JobSpec, trigger: Trigger | None) -> list[tuple[StepSpec, str]]:
    """Return the steps of a job in order, those that clone its source and serve its target too, each with its kind.

    `trigger`: that whose branch and commit the source takes, as far as it names them; None: it takes none.
    """
    steps = [(step, "") for step in job.steps]
    if job.source is not None:
        steps.insert(0, (_source_step(job.source, trigger), SOURCE_STEP))
    if job.target is not None:
        steps.append((_target_step(job.target), TARGET_STEP))
    return steps


@dataclass(frozen=True, slots=True)
class _Base:
    """What all jobs of a run share."""

    run_id: UUID
    pipeline_id: UUID
    env: Mapping[str, str]
    trigger: Trigger
    new_id: Callable[[], UUID]

    def context(self, variables: Mapping[str, str], namespace: str, pipeline_name: str) -> Context:
        """Return what expressions are evaluated over before any job began."""
        return Context(
            variables=variables,
            env=self.env,
            branch=self.trigger.branch,
            commit=self.trigger.commit_sha,
            run={
                "id": str(self.run_id),
                "pipeline_id": str(self.pipeline_id),
                "pipeline": pipeline_name,
                "namespace": namespace,
                "trigger": self.trigger.type.lower(),
                "triggered_by": self.trigger.triggered_by,
            },
            job={},
            step={"name": SOURCE_STEP},
            needs={},
            steps={},
            matrix=NO_CELL,
            event=self.trigger.event,
            outcome=Outcome.SUCCESS,
        )

    def job(self, placed: PlacedJob, stage_index: int, index: int, timeout_ms: int | None, *, of_run: bool) -> NewJob:
        job_id, spec, cell = placed.id, placed.spec, placed.cell
        name = cell_name(spec.name, cell)
        steps = tuple(
            new_step(
                step,
                place,
                step_id=self.new_id(),
                job_id=job_id,
                run_id=self.run_id,
                pipeline_id=self.pipeline_id,
                job_name=name,
                run_variables=self.env,
                job_env=spec.env,
                job_selector=spec.selector,
                cell=cell,
                kind=kind,
            )
            for place, (step, kind) in enumerate(steps_of(spec, self.trigger if of_run else None))
        )
        return NewJob(job_id, name, spec, cell, stage_index, index, steps, timeout_ms)


def _source_step(source: GitSource, trigger: Trigger | None) -> StepSpec:
    args: dict[str, Any] = {
        "repo": source.repo,
        # Who names a branch does not write expressions: what comes with the trigger is taken as it is.
        "branch": (literal(trigger.branch) if trigger else "") or source.branch,
        "depth": source.depth,
        "submodules": source.submodules,
    }
    if source.auth is not None:
        args |= {"username": source.auth.username, "password": source.auth.password, "token": source.auth.token}
    args = {key: value for key, value in args.items() if value}
    if trigger is not None:
        # Also when it is empty: by it the step is known as one that clones what the trigger asks for.
        args[ASKED_COMMIT] = literal(trigger.commit_sha)
    return StepSpec(SOURCE_STEP, uses="git", action="clone", args=args)


def _target_step(target: TargetSpec) -> StepSpec:
    args = {key: value for key, value in target.config.items() if key != "name"}
    return StepSpec(TARGET_STEP, uses=TARGET_PLUGINS.get(target.type, target.type), args=args)
