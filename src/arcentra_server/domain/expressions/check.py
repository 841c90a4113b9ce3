"""Check the expressions of a whole definition: every place where one may stand, with what it may name there.

A definition without expressions costs a look at its texts, no more: what the places may name is put together when the
first expression is met.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from arcentra_server.domain.definition import (
    SOURCE_STEP,
    TARGET_STEP,
    CronTrigger,
    EventTrigger,
    JobSpec,
    MatrixSpec,
    PipelineSpec,
    StepSpec,
)
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.expressions.conditions import check_condition
from arcentra_server.domain.expressions.names import RUN_ENV, Names
from arcentra_server.domain.expressions.scripts import arguments_warnings, script_problem, script_warnings, scripts_of
from arcentra_server.domain.expressions.texts import OPEN, check_text, is_template, secrets_in

_PLAIN = "`${{ }}` is not evaluated here: write a plain text"
_IN_A_NAME = "`${{ }}` is not evaluated in names, only in values"
_PLAIN_SHELL = "`${{ }}` is not evaluated here: name the shell"
_NOT_YET = "has an expression itself, which is evaluated after `when`: name what it is made of"
_NOT_SEEN = "holds a secret, which expressions do not see: write ${{ secrets.NAME }} where you need it"
_NOT_IN_SOURCE = "a secret cannot be used here: use `source.auth`"
_TARGET_USES = {"command": "shell"}


def check_expressions(spec: PipelineSpec) -> list[Fault]:
    """Return the faults of all expressions of a definition, each with its field path and column."""
    faults = list(_check_plain(spec))
    variables = _variables(spec)
    shared = variables.union(RUN_ENV)
    placed = spec.jobs()
    for stage in spec.stages:
        outputs = {job.name: frozenset(job.outputs) for job in stage.jobs}
        for _ in stage.jobs:
            path, job = next(placed)
            faults += _Job(path, job, variables, shared, outputs).faults()
    return faults


def expression_warnings(spec: PipelineSpec) -> list[Fault]:
    """Return what may not do what its author means in scripts and commands: data of outsiders, references not replaced."""
    return [
        Fault(f"{path}.{name}", message)
        for where, job in spec.jobs()
        for path, uses, args in _programs(where, job)
        for name in scripts_of(uses, args)
        for message in (script_warnings if isinstance(args[name], str) else arguments_warnings)(args[name])
    ]


def _programs(path: str, job: JobSpec) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the path of the arguments, the plugin and the arguments of each step and of the target."""
    for index, step in enumerate(job.steps):
        yield f"{path}.steps[{index}].args", step.uses, step.args
    if job.target is not None:
        yield f"{path}.target.config", _TARGET_USES.get(job.target.type, job.target.type), job.target.config


def _variables(spec: PipelineSpec) -> frozenset[str]:
    """Return the variables that a run can have: those of the pipeline and of its triggers."""
    names = set(spec.variables)
    for trigger in spec.triggers:
        if isinstance(trigger, (CronTrigger, EventTrigger)):
            names.update(trigger.variables)
    return frozenset(names)


def _check_plain(spec: PipelineSpec) -> Iterator[Fault]:
    """Yield the expressions that stand where none is evaluated."""
    for name, value in spec.variables.items():
        if OPEN in value:
            yield Fault(f"variables[{name!r}]", _PLAIN)
    for index, trigger in enumerate(spec.triggers):
        if isinstance(trigger, (CronTrigger, EventTrigger)):
            for name, value in trigger.variables.items():
                if OPEN in value:
                    yield Fault(f"triggers[{index}].variables[{name!r}]", _PLAIN)
    for path, job in spec.jobs():
        if job.matrix is not None:
            yield from _check_matrix(job.matrix, f"{path}.matrix")


def _check_matrix(matrix: MatrixSpec, path: str) -> Iterator[Fault]:
    for name, values in matrix.axes:
        for index, value in enumerate(values):
            if is_template(value):
                yield Fault(f"{path}.{name}[{index}]", _PLAIN)
    for kind, entries in (("include", matrix.include), ("exclude", matrix.exclude)):
        for index, entry in enumerate(entries):
            for name, value in entry.items():
                if is_template(value):
                    yield Fault(f"{path}.{kind}[{index}].{name}", _PLAIN)


@dataclass
class _Job:
    """The places of one job. `shared`: the environment of all steps of a run; `outputs`: those of the jobs of its stage."""

    path: str
    job: JobSpec
    variables: frozenset[str]
    shared: frozenset[str]
    outputs: Mapping[str, frozenset[str]]

    def faults(self) -> Iterator[Fault]:
        job, path = self.job, self.path
        if job.when:
            names = self._names(None, self.shared, secrets=False, condition=True)
            yield from _faults(f"{path}.when", check_condition(job.when, names))
        yield from self._env(f"{path}.env", job.env, 0)
        yield from self._source()
        for index, step in enumerate(job.steps):
            yield from self._step(index, step)
        yield from self._target()
        for name, text in job.outputs.items():
            if OPEN in text:
                names = self._names(None, self.shared, seen=len(self._steps), secrets=False)
                yield from _faults(f"{path}.outputs[{name!r}]", check_text(text, names))
        yield from self._notify()

    @cached_property
    def _steps(self) -> list[str]:
        """The steps in their order, with those of the source and the target."""
        names = [step.name for step in self.job.steps]
        if self.job.source is not None:
            names.insert(0, SOURCE_STEP)
        return [*names, TARGET_STEP] if self.job.target is not None else names

    @cached_property
    def _needs(self) -> Mapping[str, frozenset[str]]:
        return {name: self.outputs.get(name, frozenset()) for name in self.job.depends_on}

    @cached_property
    def _axes(self) -> frozenset[str]:
        """What the cells of the matrix can have values of."""
        matrix = self.job.matrix
        if matrix is None:
            return frozenset()
        return frozenset([*(name for name, _ in matrix.axes), *(name for entry in matrix.include for name in entry)])

    @cached_property
    def _job_env(self) -> frozenset[str]:
        return self.shared.union(self.job.env)

    def _names(
        self,
        place: int | None,
        env: frozenset[str] | None,
        *,
        seen: int = 0,
        secrets: bool = True,
        condition: bool = False,
        hidden: Mapping[str, str] | None = None,
    ) -> Names:
        """Return what can be named in the step at a place, or where no step is, which may be after `seen` of them."""
        return Names(
            variables=self.variables,
            env=env,
            needs=self._needs,
            steps=frozenset(self._steps[: seen if place is None else place]),
            matrix=self._axes,
            secrets=secrets,
            status_functions=condition,
            in_step=place is not None,
            hidden_env=hidden or {},
        )

    def _of_args(self, place: int, own: Mapping[str, str], secrets: Mapping[str, str]) -> Names:
        """Return what the arguments and the image of a step can name; `own`: its environment, without that of the job."""
        return self._names(place, self._in_force(own), hidden=self._hidden(own, secrets))

    def _of_condition(self, place: int, step: StepSpec) -> Names:
        pending = {name: _NOT_YET for name, text in {**self.job.env, **step.env}.items() if OPEN in text}
        hidden = {**pending, **self._hidden(step.env, step.secrets)}
        return self._names(place, self._in_force(step.env), secrets=False, condition=True, hidden=hidden)

    def _in_force(self, own: Mapping[str, str]) -> frozenset[str]:
        return self._job_env.union(own) if own else self._job_env

    def _hidden(self, own: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of a step that hold secrets."""
        env = {**self.job.env, **own}
        return {name: _NOT_SEEN for name in (*env, *secrets) if name in secrets or secrets_in(env[name])}

    def _env(self, path: str, env: Mapping[str, str], place: int) -> Iterator[Fault]:
        for name, text in env.items():
            if OPEN in text:
                yield from _faults(f"{path}[{name!r}]", check_text(text, self._names(place, None)))

    def _step(self, index: int, step: StepSpec) -> Iterator[Fault]:
        if not (step.when or OPEN in step.image or _mentions(step.env) or _mentions(step.args)):
            return
        path = f"{self.path}.steps[{index}]"
        place = index + (self.job.source is not None)
        if step.when:
            yield from _faults(f"{path}.when", check_condition(step.when, self._of_condition(place, step)))
        yield from self._env(f"{path}.env", step.env, place)
        if OPEN in step.image:
            names = self._of_args(place, step.env, step.secrets)
            yield from _faults(f"{path}.image", check_text(step.image, names))
        if _mentions(step.args):
            names = self._of_args(place, step.env, step.secrets)
            yield from _check_args(step.uses, step.args, f"{path}.args", names)

    def _source(self) -> Iterator[Fault]:
        source = self.job.source
        if source is None:
            return
        texts = [("repo", source.repo), ("branch", source.branch)]
        for name, text in texts:
            if secrets_in(text):
                yield Fault(f"{self.path}.source.{name}", _NOT_IN_SOURCE)
        if source.auth is not None:
            auth = source.auth
            texts += [("auth.username", auth.username), ("auth.password", auth.password), ("auth.token", auth.token)]
        for name, text in texts:
            if OPEN in text:
                yield from _faults(f"{self.path}.source.{name}", check_text(text, self._of_args(0, {}, {})))

    def _target(self) -> Iterator[Fault]:
        target = self.job.target
        if target is not None and _mentions(target.config):
            names = self._of_args(len(self._steps) - 1, {}, {})
            uses = _TARGET_USES.get(target.type, target.type)
            yield from _check_args(uses, target.config, f"{self.path}.target.config", names)

    def _notify(self) -> Iterator[Fault]:
        notify = self.job.notify
        if notify is None:
            return
        for name, notification in (("on_success", notify.on_success), ("on_failure", notify.on_failure)):
            if notification is not None and _mentions(notification.args):
                names = self._names(None, self.shared, seen=len(self._steps))
                yield from _check_values(notification.args, f"{self.path}.notify.{name}.args", names)


def _check_args(uses: str, args: Mapping[str, Any], path: str, names: Names) -> Iterator[Fault]:
    yield from _check_values(args, path, names)
    is_shell = uses.partition("@")[0] == "shell"
    if is_shell and is_template(args.get("shell")):
        yield Fault(f"{path}.shell", _PLAIN_SHELL)
        return
    for name in scripts_of(uses, args):
        if message := script_problem(name, args):
            yield Fault(f"{path}.{name}", message)


def _check_values(value: Any, path: str, names: Names) -> Iterator[Fault]:
    """Yield the faults of all texts of JSON data."""
    if isinstance(value, str):
        if OPEN in value:
            yield from _faults(path, check_text(value, names))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if OPEN in key:
                yield Fault(path, f"{key[:80]!r}: {_IN_A_NAME}")
            else:
                yield from _check_values(item, f"{path}.{key}", names)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _check_values(item, f"{path}[{index}]", names)


def _mentions(value: Any) -> bool:
    """Answer whether JSON data holds `${{`, also in its names."""
    if isinstance(value, str):
        return OPEN in value
    if isinstance(value, Mapping):
        for key, item in value.items():
            # Most are texts: a definition has thousands of them, and this is all that it costs.
            if OPEN in key or (OPEN in item if type(item) is str else _mentions(item)):
                return True
        return False
    return isinstance(value, (list, tuple)) and any(map(_mentions, value))


def _faults(path: str, messages: list[str]) -> list[Fault]:
    return [Fault(path, message) for message in messages]
