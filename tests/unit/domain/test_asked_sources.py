"""Which clones of a run take the branch and the commit of its trigger, and what the run keeps of that."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from uuid import UUID

import pytest

from arcentra_server.domain.definition import GitSource, JobSpec, MatrixSpec, PipelineSpec, StageSpec, StepSpec
from arcentra_server.domain.errors import LimitExceeded
from arcentra_server.domain.forge import Forge
from arcentra_server.domain.forge_read import read_event
from arcentra_server.domain.instantiate import NOT_CLONED, NewRun, Trigger, instantiate
from arcentra_server.domain.repositories import Repository, same_repository
from arcentra_server.domain.states import TriggerType
from tests.support.deliveries import NAMES, delivery, generic

APP, LIB = "https://code/team/app.git", "https://code/team/lib.git"
OF_APP = Repository((APP,), "team/app")


def run_of(*stages: StageSpec, trigger: Trigger, variables: dict[str, str] | None = None) -> NewRun:
    numbers = count(1)
    return instantiate(
        PipelineSpec(stages, variables or {}),
        trigger,
        pipeline_id=UUID(int=999),
        namespace="team",
        spec_version=3,
        new_id=lambda: UUID(int=next(numbers)),
        pipeline_name="app",
    )


def clones(*repos: str, trigger: Trigger, variables: dict[str, str] | None = None) -> NewRun:
    """A run of a job a source, each of them in a stage of its own."""
    stages = [
        StageSpec(f"s{place}", (JobSpec("a", (), source=GitSource(repo, "own")),)) for place, repo in enumerate(repos)
    ]
    return run_of(*stages, trigger=trigger, variables=variables)


def taken(run: NewRun) -> list[tuple[object, ...]]:
    """Branch and commit of each clone."""
    args = [step.args for _, step in run.steps() if step.kind == "source"]
    return [(one["branch"], one.get("commit")) for one in args]


OWN_BRANCH = ("own", None)


@pytest.mark.parametrize(
    ("branch", "commit", "first", "pins"),
    [
        ("topic", "abc", ("topic", "abc"), {"": "abc"}),
        ("topic", "", ("topic", ""), {"own": ""}),
        ("", "abc", ("own", "abc"), {"": "abc"}),
        ("", "", ("own", ""), {"first": ""}),
    ],
)
def test_only_sources_of_its_repository_take_what_a_trigger_asks_for(
    branch: str, commit: str, first: tuple[object, ...], pins: dict[str, str]
) -> None:
    by_event = Trigger(TriggerType.EVENT, "hook", branch=branch, commit_sha=commit, repository=OF_APP)
    run = clones(APP, LIB, "git@code:team/app", trigger=by_event)
    assert (taken(run), run.pins, run.not_cloned) == ([first, OWN_BRANCH, first], pins, "")
    run = clones(LIB, APP, trigger=by_event)
    assert (taken(run), run.pins, run.not_cloned) == ([OWN_BRANCH, first], pins, "")
    by_hand = replace(by_event, type=TriggerType.MANUAL, repository=Repository())
    run = clones(APP, LIB, "git@code:team/app", trigger=by_hand)
    assert (taken(run), run.pins, run.not_cloned) == ([first, OWN_BRANCH, first], pins, "")
    run = clones(LIB, APP, trigger=by_hand)
    assert (taken(run), run.pins, run.not_cloned) == ([first, OWN_BRANCH], pins, "")


def test_commit_of_a_run_that_is_asked_for_nothing_is_that_of_the_branch_of_its_first_source() -> None:
    sources = (GitSource(LIB, "main"), GitSource(LIB, "next"), GitSource(f"{LIB}/", "main"), GitSource(APP, "main"))
    stages = [StageSpec(f"s{place}", (JobSpec("a", (), source=source),)) for place, source in enumerate(sources)]
    run = run_of(*stages, trigger=Trigger(TriggerType.CRON, "nightly"))
    assert taken(run) == [("main", ""), ("next", None), ("main", ""), ("main", None)]
    assert (run.pins, run.not_cloned) == ({"first": ""}, "")
    run = run_of(*stages, trigger=Trigger(TriggerType.EVENT, "hook", repository=OF_APP))
    assert taken(run) == [("main", None), ("next", None), ("main", None), ("main", "")]
    run = run_of(*stages[:3], trigger=Trigger(TriggerType.EVENT, "hook", repository=OF_APP))
    assert ({commit for _, commit in taken(run)}, run.pins, run.not_cloned) == ({None}, {}, "")


def test_event_of_a_repository_that_is_not_cloned_pins_nothing_and_the_run_says_so() -> None:
    trigger = Trigger(TriggerType.EVENT, "hook", branch="topic", commit_sha="abc", repository=OF_APP)
    run = clones(LIB, trigger=trigger)
    assert (taken(run), run.pins, run.not_cloned) == ([OWN_BRANCH], {}, NOT_CLONED)
    # It is the commit of the run all the same.
    assert run.jobs[0].steps[0].env["ARCENTRA_COMMIT"] == "abc"
    asks_nothing = clones(LIB, trigger=replace(trigger, branch="", commit_sha=""))
    clones_nothing = run_of(StageSpec("s0", (JobSpec("a", (StepSpec("s", uses="shell"),)),)), trigger=trigger)
    assert [(one.pins, one.not_cloned) for one in (asks_nothing, clones_nothing)] == [({}, "")] * 2


@pytest.mark.parametrize(
    "repo",
    [
        "https://code/${{ event.repo }}",
        "https://code/${{ variables.TEAM }}/app",
        "https://code/${{ env.ARCENTRA_BRANCH }}/app",
        "https://code/${{ branch }}/${{ run.pipeline }}",
        "https://code/${{ run.namespace }}/${{ run.trigger == 'event' ? 'app' : 'lib' }}",
        "https://code/team/${{ job.stage == 's1' ? 'app' : 'lib' }}",
        "https://code/team/${{ job.name == 'a' && job.definition_name == 'a' ? 'app' : 'lib' }}",
    ],
)
def test_addresses_are_compared_as_they_are_evaluated(repo: str) -> None:
    trigger = Trigger(
        TriggerType.EVENT, "hook", branch="team", commit_sha="abc", event={"repo": "team/app"}, repository=OF_APP
    )
    run = clones(LIB, repo, trigger=trigger, variables={"TEAM": "team"})
    assert taken(run) == [OWN_BRANCH, ("team", "abc")]


def test_address_may_come_from_the_environment_of_its_job_or_from_its_cell() -> None:
    trigger = Trigger(TriggerType.EVENT, "hook", branch="topic", commit_sha="abc", repository=OF_APP)
    matrix = MatrixSpec((("name", ("lib", "app")),))
    of_cell = JobSpec("a", (), source=GitSource("https://code/team/${{ matrix.name }}", "own"), matrix=matrix)
    env = {"TEAM": "team", "REPO": "${{ variables.NAME }}"}
    of_env = JobSpec("b", (), source=GitSource("https://code/${{ env.TEAM }}/${{ env.REPO }}", "own"), env=env)
    run = run_of(StageSpec("one", (of_cell, of_env)), trigger=trigger, variables={"NAME": "app"})
    assert taken(run) == [OWN_BRANCH, ("topic", "abc"), ("topic", "abc")]


def test_address_that_is_not_known_when_the_run_starts_is_compared_as_it_is_written() -> None:
    later = "https://code/${{ needs.x.outputs.repo }}"
    by_hand = Trigger(TriggerType.MANUAL, "ada", branch="topic")
    assert taken(clones(later, LIB, later, trigger=by_hand)) == [("topic", ""), OWN_BRANCH, ("topic", "")]
    another = later.replace("repo", "other")
    assert taken(clones(later, another, trigger=by_hand)) == [("topic", ""), OWN_BRANCH]
    by_event = replace(by_hand, type=TriggerType.EVENT, repository=OF_APP)
    assert taken(clones(later, APP, trigger=by_event)) == [OWN_BRANCH, ("topic", "")]


BY_EVENT = Trigger(TriggerType.EVENT, "hook", branch="topic", commit_sha="abc", repository=OF_APP)
OF_VARIABLE = "https://code/${{ variables.REPO }}"


@pytest.mark.parametrize(
    ("repo", "env"),
    [
        (OF_VARIABLE, {"V": "${{ needs.build.outputs.v }}"}),
        (OF_VARIABLE, {"ID": "${{ job.id }}"}),
        (OF_VARIABLE, {"LABEL": "${{ event.label }}"}),
        (OF_VARIABLE, {"V": "${{ 1 / 0 }}", "TOKEN": "${{ secrets.TOKEN }}"}),
        ("https://code/${{ env.A }}", {"A": "team/${{ variables.NAME }}", "V": "${{ needs.build.outputs.v }}"}),
        # It does not say which variable: it is looked up among those that are known.
        ("https://code/${{ env['A' + ''] }}", {"A": "${{ variables.REPO }}", "V": "${{ needs.build.outputs.v }}"}),
        ("https://code/${{ env['REPO' + ''] }}", {"V": "${{ needs.build.outputs.v }}"}),
        ("https://code/team/${{ job.id == env.ID ? 'app' : 'lib' }}", {"ID": "${{ job.id }}"}),
    ],
)
def test_other_variables_of_the_environment_do_not_matter(repo: str, env: dict[str, str]) -> None:
    job = JobSpec("a", (), source=GitSource(repo, "own"), env=env)
    variables = {"REPO": "team/app", "NAME": "app"}
    assert taken(run_of(StageSpec("s", (job,)), trigger=BY_EVENT, variables=variables)) == [("topic", "abc")]
    # Of one repository when somebody started the run, whatever else differs.
    plain = replace(job, name="b", source=GitSource(APP, "own"), env={})
    by_hand = replace(BY_EVENT, type=TriggerType.MANUAL, repository=Repository())
    run = run_of(StageSpec("s", (job, plain)), trigger=by_hand, variables=variables)
    assert taken(run) == [("topic", "abc"), ("topic", "abc")]


@pytest.mark.parametrize(
    "repo",
    [
        "https://code/${{ env.A }}",
        "https://code/${{ env['A' + ''] }}",
        "https://code/team/${{ has(env.A) ? 'lib' : 'app' }}",
    ],
)
def test_variable_that_an_address_names_is_not_that_of_the_run_while_it_is_not_known(repo: str) -> None:
    env = {"A": "${{ needs.build.outputs.v }}"}
    job = JobSpec("a", (), source=GitSource(repo, "own"), env=env)
    run = run_of(StageSpec("s", (job,)), trigger=BY_EVENT, variables={"A": "team/app"})
    assert taken(run) == [OWN_BRANCH]


def thousand(repo: str, **of_job: object) -> list[JobSpec]:
    job = JobSpec("a", (), source=GitSource(repo, "own"), **of_job)  # type: ignore[arg-type]
    return [replace(job, name=f"j{number}") for number in range(1_000)]


@pytest.mark.parametrize(
    "repo",
    [
        "https://code/${{ variables.TEAM + '/' + variables.NAME }}",
        "${{ variables.BASE.replace('x', 'y') + '/' + matrix.name }}",
        "https://code/${{ env.TEAM + '/' + env.NAME }}",
        # Another address in each job.
        "https://code/team/${{ job.name.startsWith('j') ? variables.NAME : job.id }}",
    ],
)
def test_each_of_a_thousand_jobs_takes_what_the_trigger_asks_for(repo: str) -> None:
    variables = {"TEAM": "team", "NAME": "app", "BASE": "https://code/team"}
    matrix = MatrixSpec((("name", ("app",)),))
    jobs = thousand(repo, matrix=matrix, env={"NAME": "${{ variables.NAME }}", "ID": "${{ job.id }}"})
    run = run_of(StageSpec("s", tuple(jobs)), trigger=BY_EVENT, variables=variables)
    assert taken(run) == [("topic", "abc")] * 1_000


# Some 20,000 steps, and what it comes to is the address.
LONG = "https://code/team/${{ variables.LETTERS.split('').all(a, a != 'b' && a != 'c') ? matrix.name : '' }}"


def test_address_is_evaluated_once_for_all_jobs_in_which_it_is_the_same() -> None:
    matrix = MatrixSpec((("name", ("app", "lib")),))
    jobs = thousand(LONG, matrix=matrix, env={"ID": "${{ job.id }}"})
    run = run_of(StageSpec("s", tuple(jobs)), trigger=BY_EVENT, variables={"LETTERS": "a" * 2_000})
    assert taken(run) == [("topic", "abc"), OWN_BRANCH] * 1_000


def test_values_of_a_matrix_that_only_look_the_same_make_addresses_of_their_own() -> None:
    repo = "https://code/team/${{ string(matrix.of) == '1' ? 'app' : 'lib' }}"
    values: tuple[bool | int | str, ...] = (True, 1, "1", 2)
    jobs = [
        JobSpec(f"j{number}", (), source=GitSource(repo, "own"), matrix=MatrixSpec((("of", (value,)),)))
        for number, value in enumerate(values)
    ]
    took = ("topic", "abc")
    assert taken(run_of(StageSpec("s", tuple(jobs)), trigger=BY_EVENT)) == [OWN_BRANCH, took, took, OWN_BRANCH]


def test_jobs_make_addresses_of_their_own_when_these_name_them() -> None:
    repo = "https://code/team/${{ job.definition_name == 'j1' ? 'app' : 'lib' }}"
    jobs = [JobSpec(f"j{number}", (), source=GitSource(repo, "own")) for number in range(3)]
    run = run_of(StageSpec("s", tuple(jobs)), trigger=BY_EVENT)
    assert taken(run) == [OWN_BRANCH, ("topic", "abc"), OWN_BRANCH]


def test_addresses_that_take_too_much_start_no_run() -> None:
    one = LONG.replace("variables.LETTERS.split('')", "(variables.LETTERS + variables.LETTERS).split('')")
    with pytest.raises(LimitExceeded, match=r"job 'a': the address of its source: .* too many steps"):
        clones(one.replace("matrix", "run"), trigger=BY_EVENT, variables={"LETTERS": "a" * 4_000})
    cells = tuple(f"n{number}" for number in range(100))
    job = JobSpec("a", (), source=GitSource(LONG, "own"), matrix=MatrixSpec((("name", cells),)))
    with pytest.raises(LimitExceeded, match="the addresses of all sources of a run may together take 6,000 steps"):
        run_of(StageSpec("s", (job,)), trigger=BY_EVENT, variables={"LETTERS": "a" * 2_000})
    # Nobody asks which it is.
    by_hand = Trigger(TriggerType.MANUAL, "ada")
    run = run_of(StageSpec("s", (job,)), trigger=by_hand, variables={"LETTERS": "a" * 2_000})
    assert taken(run) == [OWN_BRANCH] * 100


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith(("ping", "create"))])
def test_repository_of_a_delivery_is_the_one_that_the_code_goes_to(name: str) -> None:
    one = delivery(name)
    host = {Forge.GITHUB: "github.com", Forge.GITLAB: "gitlab.example.com", Forge.GITEA: "gitea.example.com"}[one.forge]
    repository = read_event(one.forge, one.headers, one.body).repository
    by_http, by_ssh = repository.urls
    assert (repository.name, by_http) == ("acme/widgets", f"https://{host}/acme/widgets.git")
    assert by_ssh.startswith(("git@", "ssh://git@"))
    assert same_repository(by_http, by_ssh)


def test_generic_delivery_names_its_repository_as_it_likes() -> None:
    one = generic({"event": "deploy", "repo": "app", "clone_url": "git@code:team/app"})
    assert read_event(one.forge, one.headers, one.body).repository == Repository(("git@code:team/app",), "app")
    one = generic({"event": "deploy"})
    assert not read_event(one.forge, one.headers, one.body).repository.known
