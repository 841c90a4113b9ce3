"""Settle what became due in a ledger: load what it takes, evaluate, decide, until nothing is due any more.

It is part of the transaction that changes a run, so a run is never seen between two turns. Only steps and jobs that
have an expression, a secret, a source or something they depend on come here; all others have their turn at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import UUID

import structlog

from arcentra_server.db.contexts import JobFacts, load_facts, outcome_of
from arcentra_server.db.engine import Row, Tx
from arcentra_server.db.execution import load_dependants, load_needs, load_rest, load_stage
from arcentra_server.db.new_steps import copy_attempts
from arcentra_server.db.pace import Pace
from arcentra_server.db.vault import Vault
from arcentra_server.domain import rollup
from arcentra_server.domain.definition import SOURCE_STEP
from arcentra_server.domain.execution import FIRST, OWN, JobState, NeedEnd, StepState, Verdict
from arcentra_server.domain.expressions import (
    Context,
    ExpressionError,
    Meter,
    Outcome,
    Rendered,
    Templates,
    holds,
    render,
    rendered,
)
from arcentra_server.domain.instantiate import ASKED_COMMIT
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.ledger_turns import end_of
from arcentra_server.domain.ports import DispatchForm
from arcentra_server.domain.states import RunStatus

MOST_RENDERED = 1024 * 1024
"""How many bytes the wire form of a step may have when its expressions are evaluated."""

MOST_OUTPUTS = 64 * 1024
"""How many bytes of names and values the outputs of a job may have in all, as those of a step."""

INTERNAL = "internal error while evaluating"
_TOO_LARGE = (
    "the step has {} bytes with the values of its expressions, more than {}: "
    "name fewer or smaller values, and pass large ones in a file"
)
_log = structlog.get_logger()
NOT_FOR_FORKS = "secrets are not given to a run of code that comes from a fork"
_STEPS = "SELECT id, name, dispatch, templates, secrets FROM step_runs WHERE id = ANY($1)"

_Missing = Mapping[tuple[str, UUID], Collection[str]]
"""By namespace and pipeline, the names of secrets that are not set for it."""


@dataclass(frozen=True, slots=True)
class Turns:
    """What settling takes: the wire form of step runs, the secrets there are, and new ids."""

    form: DispatchForm
    vault: Vault
    new_id: Callable[[], UUID]

    async def settle(self, tx: Tx, ledger: Ledger) -> None:
        """Let everything that is due have its turn."""
        while True:
            if ledger.due_outputs:
                await self._outputs(tx, ledger)
            elif ledger.due_attempts:
                await self._attempts(tx, ledger)
            elif ledger.due_dependants:
                await self._dependants(tx, ledger)
            elif ledger.due_jobs:
                await self._jobs(tx, ledger)
            elif ledger.due_steps:
                await self._steps(tx, ledger)
            elif ledger.due_stages:
                due = ledger.next_stage()
                run = ledger.runs[due.run_id]
                if run.ending or run.rejected or rollup.blocks(run.outcome):
                    # It is likely that all that is left is skipped, stage after stage: one look for all of them.
                    await load_rest(tx, ledger, run.id)
                jobs, upstream = await load_stage(tx, ledger, due.run_id, due.index)
                ledger.enter_stage(run, ledger.stages[due.run_id, due.index], jobs, upstream)
            else:
                return

    async def _outputs(self, tx: Tx, ledger: Ledger) -> None:
        ended, ledger.due_outputs = ledger.due_outputs, []
        texts = await tx.fetch("SELECT id, output_texts FROM job_runs WHERE id = ANY($1)", ended)
        facts = await load_facts(
            tx, ledger, ended, naming_needs=_naming_needs({row["id"]: row["output_texts"] for row in texts})
        )
        pace = Pace()
        for row in texts:
            job, meter = ledger.jobs[row["id"]], Meter()
            try:
                context = facts[job.id].context(outcome_of(job.outcome), ledger.runs[job.run_id].commit_sha)
                ledger.job_outputs[job.id] = _job_outputs(job, row["output_texts"], context, meter)
            except Exception:  # noqa: BLE001 - what is wrong with one job keeps no other from ending
                _log.exception("evaluating_failed", job_run_id=str(job.id))
                _note(job, f"outputs: {INTERNAL}")
            await pace.note(meter)

    async def _attempts(self, tx: Tx, ledger: Ledger) -> None:
        due, ledger.due_attempts = ledger.due_attempts, {}
        steps = await copy_attempts(tx, list(due), self.new_id)
        of_job = {job_id: list(own) for job_id, own in groupby(steps, key=lambda step: step.job_id)}
        for job_id, delay in due.items():
            ledger.begin_attempt(ledger.jobs[job_id], of_job.get(job_id, []), delay)

    async def _dependants(self, tx: Tx, ledger: Ledger) -> None:
        ended, ledger.due_dependants = ledger.due_dependants, []
        await load_dependants(tx, ledger, ended)
        dependants = sorted(dependant for job_id in ended for dependant in ledger.dependants[job_id])
        ledger.need_ended(ledger.jobs[job_id] for job_id in dependants)

    async def _jobs(self, tx: Tx, ledger: Ledger) -> None:
        due, ledger.due_jobs = ledger.due_jobs, {}
        asking = {job_id: ledger.jobs[job_id].condition for job_id in due if ledger.jobs[job_id].condition}
        await load_needs(tx, ledger, [job_id for job_id in due if job_id not in asking])
        facts = await load_facts(tx, ledger, asking, naming_needs=_naming_needs(asking))
        ends: dict[UUID, NeedEnd] = {}
        pace = Pace()
        for job_id in due:
            job = ledger.jobs[job_id]
            if job.status.terminal:
                continue
            if job_id not in asking:
                needs = ledger.needs[job_id]
                ends |= {need: end_of(ledger.jobs[need]) for need in needs if need not in ends}
                ledger.decide_job(job, Verdict(holds=ledger.judge_needs(job, [ends[need] for need in needs])))
            else:
                all_well = ledger.judge_needs(job, [need.end for need in facts[job_id].needs])
                meter = Meter()
                ledger.decide_job(job, _judge_job(job, facts[job_id], ledger, meter, all_well=all_well))
                await pace.note(meter)

    async def _steps(self, tx: Tx, ledger: Ledger) -> None:
        due, ledger.due_steps = ledger.due_steps, {}
        rows = {row["id"]: row for row in await tx.fetch(_STEPS, list(due))}
        job_of = {step_id: ledger.steps[step_id].job_id for step_id in due}
        naming = _naming_needs({one: [ledger.steps[one].condition, rows[one]["templates"]] for one in due})
        facts = await load_facts(tx, ledger, {*job_of.values()}, naming_needs={job_of[one] for one in naming})
        named = [(facts[ledger.steps[step_id].job_id].row, row["secrets"].values()) for step_id, row in rows.items()]
        missing = await self._missing(tx, named)
        pace = Pace()
        for step_id, one in due.items():
            step = ledger.steps[step_id]
            meter = Meter()
            verdict = self._judge_step(ledger, step, rows[step_id], facts[step.job_id], missing, meter)
            ledger.decide_step(one, verdict)
            await pace.note(meter)

    async def _missing(self, tx: Tx, named: Iterable[tuple[Row, Collection[str]]]) -> _Missing:
        """Return those of the secrets that steps name, each with the row of its job, which there are not."""
        wanted: dict[tuple[str, UUID], set[str]] = {}
        for job, names in named:
            if names:
                wanted.setdefault((job["namespace"], job["pipeline_id"]), set()).update(names)
        return {scope: await self.vault.missing(tx, *scope, names) for scope, names in wanted.items()}

    def _judge_step(
        self,
        ledger: Ledger,
        step: StepState,
        row: Row,
        facts: JobFacts,
        missing: _Missing,
        meter: Meter,
    ) -> Verdict:
        try:
            its_turn, result = self._evaluated(ledger, step, row, facts, meter)
        except ExpressionError as error:
            return Verdict(error=str(error))
        except Exception:  # noqa: BLE001 - what is wrong with one step keeps no other from its turn
            return _internal(step)
        if not its_turn:
            return Verdict(holds=False)
        if withheld := _withheld(facts.row, row["secrets"].values(), missing):
            return Verdict(error=withheld)
        try:
            return self._formed(ledger, step, row["dispatch"], result)
        except Exception:  # noqa: BLE001 - as above
            return _internal(step)

    def _evaluated(
        self, ledger: Ledger, step: StepState, row: Row, facts: JobFacts, meter: Meter
    ) -> tuple[bool, Rendered | None]:
        """Return whether the condition of a step holds, and what its expressions come to if it does."""
        context = facts.context(
            outcome_of(ledger.jobs[step.job_id].outcome),
            ledger.runs[step.run_id].commit_sha,
            env=self.form.env(row["dispatch"]),
            step=row["name"],
        )
        if not holds(step.condition, context, meter):
            return False, None
        return True, rendered(Templates.from_json(row["templates"]), context, meter) if row["templates"] else None

    def _formed(self, ledger: Ledger, step: StepState, dispatch: bytes, result: Rendered | None) -> Verdict:
        """Keep what a step is to be sent as, unless it became too large for that."""
        if step.kind == SOURCE_STEP:
            result = self._pinned(ledger, step, dispatch, result)
        if result is None:
            return Verdict()
        form = self.form.render(dispatch, result)
        if len(form) > MOST_RENDERED:
            return Verdict(error=_TOO_LARGE.format(len(form), MOST_RENDERED))
        ledger.rendered[step.id] = form
        return Verdict()

    def _pinned(self, ledger: Ledger, step: StepState, dispatch: bytes, result: Rendered | None) -> Rendered | None:
        """Note which source a step clones, and let it take the commit that the run keeps to, if it has one."""
        args = dict(self.form.args(dispatch)) if result is None or result.args is None else dict(result.args)
        run = ledger.runs[step.run_id]
        # A digest can be stored and compared, whatever a text holds or how long it is.
        source = f"{args.get('repo', '')}\n{args.get('branch', '')}"
        digest = hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()
        step.of_run = ASKED_COMMIT in args
        step.pin = OWN if step.of_run and FIRST not in run.pins else digest
        ledger.pinned.add(step.id)
        commit = run.pins.get(step.pin)
        step.told = bool(commit)
        if commit:
            args[ASKED_COMMIT] = commit
        elif step.of_run and FIRST in run.pins:
            del args[ASKED_COMMIT]  # none is asked for
        else:
            return result
        env, image = (result.env, result.image) if result else ({}, None)
        return Rendered(env, args, image, result.secrets if result else frozenset())


def _naming_needs(texts: Mapping[UUID, object]) -> set[UUID]:
    """Return whose texts, in whatever they are, may name something of the jobs that a job depends on."""
    return {owner for owner, text in texts.items() if "needs" in str(text)}


def _withheld(job: Row, names: Collection[str], missing: _Missing) -> str:
    """Return why a step cannot have its secrets, empty when it can."""
    if names and job["event"].get("fork") is True:
        return NOT_FOR_FORKS
    lacking = set(names).intersection(missing.get((job["namespace"], job["pipeline_id"]), ()))
    return _not_set(lacking) if lacking else ""


def _judge_job(job: JobState, facts: JobFacts, ledger: Ledger, meter: Meter, *, all_well: bool) -> Verdict:
    if not job.condition:
        return Verdict(holds=all_well)
    outcome = Outcome.SUCCESS if all_well else outcome_of(job.upstream)
    if outcome is Outcome.SUCCESS and not all_well:
        outcome = Outcome.SKIPPED
    try:
        context = facts.context(outcome, ledger.runs[job.run_id].commit_sha)
        return Verdict(holds=holds(job.condition, context, meter))
    except ExpressionError as error:
        return Verdict(error=str(error))
    except Exception:  # noqa: BLE001 - what is wrong with one job keeps no other from its turn
        _log.exception("evaluating_failed", job_run_id=str(job.id))
        return Verdict(error=INTERNAL)


def _internal(step: StepState) -> Verdict:
    """Return the verdict over a step whose evaluation failed in a way that nobody thought of; called where it is caught."""
    _log.exception("evaluating_failed", step_run_id=str(step.id))
    return Verdict(error=INTERNAL)


def _job_outputs(job: JobState, texts: Mapping[str, Any], context: Context, meter: Meter) -> dict[str, str]:
    """Return the outputs of a job that has ended; what cannot be evaluated, as its step did not run, is left out.

    So is what does not fit in beside those before it.
    """
    outputs: dict[str, str] = {}
    size = 0
    for name, text in texts.items():
        try:
            value = render(text, context, meter)
        except ExpressionError as error:
            _note(job, f"output {name}: {error}")
            continue
        more = len(name.encode()) + len(value.encode("utf-8", "replace"))
        if size + more > MOST_OUTPUTS:
            _note(job, f"output {name}: the outputs of the job would have more than {MOST_OUTPUTS} bytes with it")
            continue
        size += more
        outputs[name] = value
    return outputs


def _note(job: JobState, fault: str) -> None:
    """Tell of a fault of the outputs of a job that ended well; of any other there is more to tell."""
    if job.outcome in (RunStatus.SUCCESS, RunStatus.PARTIAL):
        job.error_message = job.error_message or fault


def _not_set(names: Collection[str]) -> str:
    listed = ", ".join(sorted(names))
    return f"secret {listed} is not set" if len(names) == 1 else f"secrets {listed} are not set"
