"""Which clones of a run take the branch and the commit that started it, on a real database."""

from __future__ import annotations

from uuid import UUID

from arcentra_server.domain.forge import Forge
from arcentra_server.domain.instantiate import NOT_CLONED, Trigger
from arcentra_server.domain.states import RunStatus, StepStatus, TriggerType
from arcentra_server.rpc.convert.dispatch import complete
from arcentra_server.services.pipelines import NewPipeline
from arcentra_server.services.runs import RetryScope
from tests.support.clock import FakeClock
from tests.support.deliveries import delivery
from tests.support.hooks import Hooks
from tests.support.world import Run, World
from tests.support.written import spec_of

HEAD = "ec26c3e57ca3a959ca5aad62de7213c562f8c821"
APP, LIB = "1" * 40, "2" * 40
# The second repository is the one that the delivery tells of, written in another way.
CLONES = """
    variables: {TEAM: acme}
    triggers: [{type: event, events: [push]}]
    jobs:
      - name: lib
        source: {type: git, repo: "https://github.com/acme/lib", branch: stable}
        steps: [{name: lib1, uses: shell, args: {script: a}}]
      - name: app
        source: {type: git, repo: "git@github.com:${{ variables.TEAM }}/widgets.git"}
        steps: [{name: app1, uses: shell, args: {script: a}}]
      - name: again
        depends_on: [lib, app]
        source: {type: git, repo: "ssh://git@github.com/acme/widgets"}
        steps: [{name: again1, uses: shell, args: {script: a}}]
"""
ONLY_LIB = CLONES.split("      - name: app", maxsplit=1)[0]
OTHERS = """
      - name: other
        source: {type: git, repo: "https://github.com/acme/other", branch: topic}
        steps: [{name: other1, uses: shell, args: {script: a}}]
      - name: later
        depends_on: [lib]
        source: {type: git, repo: "https://github.com/acme/lib.git"}
        steps: [{name: later1, uses: shell, args: {script: a}}]
"""
Told = dict[str, tuple[str, str]]


async def pushed(world: World, document: str) -> Run:
    """The run of a push to `main` of acme/widgets."""
    hooks = Hooks(world, FakeClock("2026-11-26T12:00:00"))
    pipeline = await world.server.pipelines.create(NewPipeline(spec_of(document)), "tester")
    answer = await hooks.deliver(await hooks.hook(Forge.GITHUB), delivery("github_push"))
    [run_id] = answer.runs
    [entry] = await hooks.entries(pipeline)
    assert entry.reason == answer.reason
    return Run(world, run_id, pipeline)


async def started(world: World, document: str, *, branch: str = "", commit: str = "") -> Run:
    pipeline = await world.pipeline(spec_of(document))
    trigger = Trigger(TriggerType.MANUAL, "tester", branch=branch, commit_sha=commit)
    return Run(world, (await world.server.runs.trigger(pipeline, trigger)).run_id, pipeline)


async def clone(world: World, agent: UUID, commits: dict[str, str], *, failing: str = "") -> Told:
    """Let an agent do all there is; return the branch and the commit that the last clone of each job was told.

    `commits`: what is at the end of the branch of each job's source; `failing`: a step that fails.
    """
    told: Told = {}
    while True:
        await world.server.schedule()
        if not (dispatches := world.take(agent)):
            return told
        for dispatch in dispatches:
            step = complete(dispatch)
            assert await world.report(dispatch, StepStatus.RUNNING) is None
            if step.step_name == "source":
                args = {key: str(value) for key, value in dict(step.args).items()}
                told[step.job_name] = args.get("branch", ""), args.get("commit", "")
                await world.end(dispatch, outputs={"commit": args.get("commit") or commits[step.job_name]})
            else:
                await world.end(dispatch, StepStatus.FAILED if step.step_name == failing else StepStatus.SUCCESS)


async def test_event_is_of_one_repository_among_those_that_are_cloned(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    run = await pushed(world, CLONES)
    assert (await run.row()).commit_sha == HEAD
    told = await clone(world, agent, {"lib": LIB, "app": "f" * 40})
    assert told == {"lib": ("stable", ""), "app": ("main", HEAD), "again": ("main", HEAD)}
    assert (await run.row()).commit_sha == HEAD
    assert await run.states() == "SS SS SS"


async def test_event_of_a_repository_that_is_not_cloned_pins_nothing(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    run = await pushed(world, ONLY_LIB)
    ledger = await world.sql("SELECT outcome, reason FROM trigger_events")
    assert [tuple(row) for row in ledger] == [("FIRED", NOT_CLONED)]
    assert await clone(world, agent, {"lib": LIB}) == {"lib": ("stable", "")}
    row = await run.row()
    assert (row.branch, row.commit_sha) == ("main", HEAD)  # of the event all the same


async def test_event_whose_repository_is_cloned_needs_no_word(world: World) -> None:
    await pushed(world, CLONES)
    assert await world.value("SELECT reason FROM trigger_events") == ""


async def test_what_a_person_asks_for_is_of_the_first_source(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    run = await started(world, CLONES, branch="topic", commit="abcd")
    told = await clone(world, agent, {"app": APP, "again": APP})
    assert told == {"lib": ("topic", "abcd"), "app": ("", ""), "again": ("", "")}
    assert (await run.row()).commit_sha == "abcd"


async def test_commit_of_a_run_that_names_nothing_is_that_of_its_first_source(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    cells = """
      - name: lines
        matrix: {line: [stable, next]}
        source: {type: git, repo: "https://github.com/acme/lib", branch: "${{ matrix.line }}"}
        steps: [{name: line1, uses: shell, args: {script: a}}]
    """
    run = await started(world, f"{ONLY_LIB}{OTHERS}{cells}")
    await world.server.schedule()
    sent = {complete(one).job_name: one for one in world.take(agent)}
    for one in sent.values():
        assert await world.report(one, StepStatus.RUNNING) is None
    await world.end(sent["other"], outputs={"commit": APP})
    await world.end(sent["lines (next)"], outputs={"commit": "3" * 40})
    assert (await run.row()).commit_sha == ""
    await world.end(sent["lines (stable)"], outputs={"commit": LIB})
    assert (await run.row()).commit_sha == ""
    await world.end(sent["lib"], outputs={"commit": LIB})
    assert (await run.row()).commit_sha == LIB
    assert await run.job_statuses() == [
        RunStatus.RUNNING,
        RunStatus.RUNNING,
        RunStatus.PENDING,
        *[RunStatus.RUNNING] * 2,
    ]


async def test_commit_of_a_run_is_that_of_the_repository_whose_branch_was_asked_for(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    run = await started(world, f"{ONLY_LIB}{OTHERS}", branch="topic")
    await world.server.schedule()
    sent = {complete(one).job_name: one for one in world.take(agent)}
    for one in sent.values():
        assert await world.report(one, StepStatus.RUNNING) is None
    await world.end(sent["other"], outputs={"commit": APP})
    assert (await run.row()).commit_sha == ""
    await world.end(sent["lib"], outputs={"commit": LIB})
    assert (await run.row()).commit_sha == LIB
    told = await clone(world, agent, {}, failing="lib1")
    assert told == {}
    # It is cloned again as it was, and whatever else clones this repository clones the same.
    await world.server.runs.retry(run.id, RetryScope.FAILED)
    told = await clone(world, agent, {})
    assert told == {"lib": ("topic", LIB), "later": ("topic", LIB)}
    assert (await run.row()).commit_sha == LIB
