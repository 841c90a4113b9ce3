"""Which clones of a run take the branch and the commit of its trigger, and what the run keeps of that."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from uuid import UUID

import pytest

from arcentra_server.domain.definition import GitSource, JobSpec, MatrixSpec, PipelineSpec, StageSpec, StepSpec
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
        ("", "", OWN_BRANCH, {}),
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
