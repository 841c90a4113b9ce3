"""Which events start a trigger, and by which rule not."""

from dataclasses import replace

import pytest

from arcentra_server.domain.definition import EventTrigger
from arcentra_server.domain.forge import ForgeEvent
from arcentra_server.domain.matching import (
    MOST_COMPARED,
    MOST_COMPARED_NAMES,
    PATHS_TOO_MANY,
    PATHS_UNKNOWN,
    Effort,
    Match,
    match,
)

PUSH = ForgeEvent("push", branch="main", commit="1a2b3c4", paths=("src/a.py", "docs/b.md"))
TAG = ForgeEvent("tag", tag="v1.2", commit="1a2b3c4")
REQUEST = ForgeEvent("pull_request", branch="main", base_branch="main", head_branch="x", action="opened")
DEPLOY = ForgeEvent("deploy")


@pytest.mark.parametrize(
    ("trigger", "event", "fires", "reason"),
    [
        (EventTrigger(("push",)), PUSH, True, ""),
        (EventTrigger(("push", "tag")), TAG, True, ""),
        (EventTrigger(("tag", "pull_request")), PUSH, False, "events: push is not one of tag, pull_request"),
        (EventTrigger(("push",)), replace(PUSH, ignored="because"), False, "because"),
        (EventTrigger(("tag",)), replace(PUSH, ignored="because"), False, "events: push is not one of tag"),
        (EventTrigger(("push",), repos=("me/*",)), replace(PUSH, repo="me/site"), True, ""),
        (
            EventTrigger(("push",), repos=("me/*",)),
            replace(PUSH, repo="you/site"),
            False,
            "repos: you/site does not pass",
        ),
        (EventTrigger(("push",), repos=("me/*",)), PUSH, False, "repos: the event has no repository"),
        (EventTrigger(("push",), branches=("main",)), PUSH, True, ""),
        (EventTrigger(("push",), branches=("rel/**", "!x")), PUSH, False, "branches: main does not pass rel/**, !x"),
        (EventTrigger(("pull_request",), branches=("main",)), REQUEST, True, ""),
        (EventTrigger(("pull_request",), branches=("x",)), REQUEST, False, "branches: main does not pass x"),
        # A rule for branches says nothing of tags, nor the other way round.
        (EventTrigger(("push", "tag"), branches=("main",)), TAG, True, ""),
        (EventTrigger(("push", "tag"), tags=("v2.*",)), PUSH, True, ""),
        (EventTrigger(("push", "tag"), tags=("v2.*",)), TAG, False, "tags: v1.2 does not pass v2.*"),
        (EventTrigger(("push", "tag"), tags=("v1.*",)), TAG, True, ""),
        (EventTrigger(("push",), paths=("src/**",)), PUSH, True, ""),
        (EventTrigger(("push",), paths=("!docs/**",)), PUSH, True, ""),
        (
            EventTrigger(("push",), paths=("web/**",)),
            PUSH,
            False,
            "paths: none of 2 changed files passes web/**",
        ),
        (EventTrigger(("push",), paths=("web/**",)), replace(PUSH, paths=None), True, PATHS_UNKNOWN),
        (EventTrigger(("push",), paths=("web/**",)), replace(PUSH, paths=()), False, "paths: none of 0 changed files"),
        (EventTrigger(("pull_request",), paths=("web/**",)), REQUEST, True, PATHS_UNKNOWN),
        (EventTrigger(("deploy",)), DEPLOY, True, ""),
        (EventTrigger(("deploy",), branches=("main",)), DEPLOY, False, "branches: the event has no branch"),
        (EventTrigger(("deploy",), branches=("main",)), replace(DEPLOY, branch="main"), True, ""),
        (EventTrigger(("deploy",), tags=("v2",)), replace(DEPLOY, tag="v1"), False, "tags: v1 does not pass v2"),
    ],
)
def test_rules(trigger: EventTrigger, event: ForgeEvent, fires: bool, reason: str) -> None:
    found = match(trigger, event, Effort())
    assert found.fires is fires
    assert found.reason.startswith(reason)
    assert bool(found.reason) == bool(reason)


def test_long_lists_are_told_in_part() -> None:
    globs = tuple(f"release/{number}" for number in range(100))
    assert len(match(EventTrigger(("push",), branches=globs), PUSH, Effort()).reason) < 300


def test_comparing_paths_is_bounded_for_all_triggers_of_a_delivery() -> None:
    """100 globs and 3,000 paths as long as they come would take minutes."""
    stars = EventTrigger(("push",), paths=tuple(f"*{'a*' * 100}{number}" for number in range(100)))
    long = replace(PUSH, paths=tuple(f"{number}{'a' * 250}b" for number in range(20)))
    effort = Effort(100_000)
    assert match(EventTrigger(("push",), paths=("docs/**",)), PUSH, effort) == Match(fires=True)
    found = match(stars, long, effort)
    assert (found.fires, found.reason) == (True, PATHS_TOO_MANY)
    # Nothing is left for the next trigger; one without such a rule does not mind, and the next delivery has its own.
    web = EventTrigger(("push",), paths=("web/**",))
    assert match(web, PUSH, effort).reason == PATHS_TOO_MANY
    assert match(EventTrigger(("push",)), PUSH, effort).reason == ""
    assert not match(web, PUSH, Effort()).fires


STARS = tuple(f"*{'a*' * 100}{number}" for number in range(100))
LONG = f"{'a' * 200}b"
NAMED = ForgeEvent("deploy", repo=LONG, branch=LONG, tag=LONG, paths=("src/a.py",))


@pytest.mark.parametrize(
    ("stars", "plain", "event", "what"),
    [
        (EventTrigger(("deploy",), repos=STARS), EventTrigger(("deploy",), repos=("**",)), NAMED, "repository"),
        (EventTrigger(("deploy",), branches=STARS), EventTrigger(("deploy",), branches=("**",)), NAMED, "branch"),
        (EventTrigger(("deploy",), tags=STARS), EventTrigger(("deploy",), tags=("**",)), NAMED, "tag"),
        (
            EventTrigger(("tag",), tags=STARS),
            EventTrigger(("tag",), tags=("**",)),
            replace(NAMED, kind="tag"),
            "tag",
        ),
    ],
)
def test_comparing_names_is_bounded_for_all_triggers_of_a_delivery(
    stars: EventTrigger, plain: EventTrigger, event: ForgeEvent, what: str
) -> None:
    effort = Effort(names=50_000)
    reasons = [match(stars, event, effort).reason for _ in range(4)]
    assert [" does not pass " in reason for reason in reasons] == [True, True, False, False]
    # Nobody knows whether it would have passed, so that nothing starts, and the reason is told.
    found = match(stars, event, effort)
    assert not found.fires
    assert found.reason.endswith(f": to compare the {what} with all globs of all triggers takes too long")
    # One that asks for little gets it all the same.
    assert match(plain, event, effort) == Match(fires=True)
    assert effort.names == 50_000 - 2 * 100 * (1 + len(LONG)) - (1 + len(LONG))


def test_many_files_do_not_keep_a_branch_from_being_compared() -> None:
    effort = Effort(0)
    assert match(EventTrigger(("push",), branches=("main",), paths=("web/**",)), PUSH, effort).reason == PATHS_TOO_MANY
    assert match(EventTrigger(("push",), branches=("ma*",)), PUSH, effort) == Match(fires=True)
    assert not match(EventTrigger(("push",), branches=("rel/**",)), PUSH, effort).fires
    assert effort.names == MOST_COMPARED_NAMES - 1 - (1 + len("in")) - 1


def test_globs_that_begin_otherwise_cost_next_to_nothing() -> None:
    effort = Effort()
    services = EventTrigger(("push",), paths=tuple(f"services/{number}/**" for number in range(20)))
    many = replace(PUSH, paths=tuple(f"docs/{'a' * 200}/{number}" for number in range(3_000)))
    assert not match(services, many, effort).fires
    assert effort.left == MOST_COMPARED - 20 * 3_000
