"""From what code hosts send to one form of event."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcentra_server.domain.forge import LARGEST_CONTEXT, Forge, ForgeEvent
from arcentra_server.domain.forge_payload import PayloadError
from arcentra_server.domain.forge_read import delivery_id, read_event
from tests.support.deliveries import NAMES, Delivery, delivery, generic

HEAD = "ec26c3e57ca3a959ca5aad62de7213c562f8c821"
CHANGED = ("docs/corners.md", "src/widget.go", "src/square.go")
NO_CODE = "of a pull request changes no code"

EXPECTED: dict[str, dict[str, Any]] = {
    "github_push": {
        "kind": "push",
        "repo": "acme/widgets",
        "repo_id": "186853002",
        "clone_url": "https://github.com/acme/widgets.git",
        "branch": "main",
        "ref": "main",
        "commit": HEAD,
        "actor": "ada",
        "actor_id": "21031067",
        "message": "Sort the imports",
        "paths": CHANGED,
        "fork": False,
        "ignored": "",
    },
    "github_push_skip_ci": {"kind": "push", "ignored": "the message of the commit says [skip ci]"},
    "github_push_deleted": {"kind": "push", "branch": "old", "commit": "", "ignored": "the branch or tag was deleted"},
    "github_push_tag": {
        "kind": "tag",
        "branch": "",
        "tag": "v1.2.0",
        "ref": "refs/tags/v1.2.0",
        "commit": HEAD,
        "paths": None,
        "ignored": "",
    },
    "github_pull_request": {
        "kind": "pull_request",
        "action": "opened",
        "branch": "main",
        "base_branch": "main",
        "head_branch": "round",
        "ref": "round",
        "commit": HEAD,
        "number": 12,
        "title": "Make the widgets round",
        "url": "https://github.com/acme/widgets/pull/12",
        "fork": False,
        "paths": None,
        "ignored": "",
    },
    "github_pull_request_fork": {
        "kind": "pull_request",
        "action": "synchronize",
        "repo_id": "186853002",
        "head_repo_id": "555000111",
        "head_branch": "main",
        "ref": "refs/pull/12/head",
        "actor": "bob",
        "actor_id": "33",
        "fork": True,
        "ignored": "",
    },
    "github_pull_request_closed": {"action": "closed", "ignored": f"the action 'closed' {NO_CODE}"},
    "github_ping": {"kind": "ping", "ignored": "a ping: the hook works"},
    "gitlab_push": {
        "kind": "push",
        "repo": "acme/widgets",
        "repo_id": "15",
        "clone_url": "https://gitlab.example.com/acme/widgets.git",
        "branch": "main",
        "commit": HEAD,
        "actor": "ada",
        "actor_id": "4",
        "message": "Sort the imports",
        "paths": CHANGED,
        "ignored": "",
    },
    "gitlab_push_many": {"kind": "push", "paths": None, "ignored": ""},
    "gitlab_push_tag": {"kind": "tag", "tag": "v1.2.0", "ref": "refs/tags/v1.2.0", "commit": HEAD, "paths": None},
    "gitlab_push_deleted": {"kind": "push", "commit": "", "ignored": "the branch or tag was deleted"},
    "gitlab_merge_request": {
        "kind": "pull_request",
        "action": "opened",
        "branch": "main",
        "head_branch": "round",
        "ref": "round",
        "commit": HEAD,
        "number": 7,
        "actor": "bob",
        "actor_id": "51",
        "message": "round them",
        "fork": False,
        "ignored": "",
    },
    "gitlab_merge_request_fork": {
        "action": "synchronize",
        "ref": "refs/merge-requests/7/head",
        "repo_id": "15",
        "head_repo_id": "77",
        "fork": True,
        "ignored": "",
    },
    "gitlab_merge_request_labelled": {"ignored": "the update of the pull request changes no code"},
    "gitea_push": {
        "kind": "push",
        "repo": "acme/widgets",
        "repo_id": "140",
        "branch": "release/1.2",
        "commit": HEAD,
        "actor": "ada",
        "actor_id": "21",
        "message": "Sort the imports",
        "paths": ("src/widget.go", "docs/corners.md"),
    },
    "gitea_push_tag": {"kind": "tag", "tag": "v1.2.0", "commit": HEAD, "ignored": ""},
    "gitea_pull_request": {"kind": "pull_request", "action": "opened", "number": 3, "ref": "round", "fork": False},
    "gitea_pull_request_fork": {
        "action": "synchronized",
        "ref": "refs/pull/3/head",
        "repo_id": "140",
        "head_repo_id": "162",
        "fork": True,
        "ignored": "",
    },
    "gitea_create": {
        "kind": "create",
        "ignored": "the event 'create' starts nothing: only push, tag and pull_request do",
    },
}


def read(one: Delivery) -> ForgeEvent:
    return read_event(one.forge, one.headers, one.body)


def changed(one: Delivery, *path: str, value: Any) -> Delivery:
    """The same delivery with something else at a place of its body; `...` takes it away."""
    body = json.loads(one.body)
    place = body
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return Delivery(one.forge, one.headers, json.dumps(body).encode())


def test_all_files_are_looked_at() -> None:
    assert sorted(EXPECTED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_documented_deliveries(name: str) -> None:
    event = read(delivery(name))
    assert {key: getattr(event, key) for key in EXPECTED[name]} == EXPECTED[name]
    assert ForgeEvent.from_json(json.loads(json.dumps(event.to_json()))) == event


@pytest.mark.parametrize(
    ("name", "summary"),
    [
        ("github_push", "push main ec26c3e"),
        ("github_push_tag", "tag v1.2.0 ec26c3e"),
        ("github_pull_request_fork", "pull_request #12 synchronize main to main ec26c3e"),
        ("github_ping", "ping"),
    ],
)
def test_summaries(name: str, summary: str) -> None:
    assert read(delivery(name)).summary() == summary


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("github_pull_request", ("pull_request", "head", "repo")),
        ("github_pull_request", ("pull_request", "head", "repo", "id")),
        ("gitea_pull_request", ("pull_request", "head", "repo_id")),
        ("gitlab_merge_request", ("object_attributes", "source_project_id")),
        ("gitlab_merge_request", ("object_attributes", "target_project_id")),
    ],
)
@pytest.mark.parametrize("value", [None, ..., "", {"id": 1}, True])
def test_code_from_nowhere_is_from_a_fork(name: str, path: tuple[str, ...], value: Any) -> None:
    one = changed(delivery(name), *path, value=value)
    if name.startswith("gitea"):
        one = changed(one, "pull_request", "head", "repo", value=None)
    event = read(one)
    assert event.fork
    assert event.ref.startswith("refs/")


def test_names_do_not_make_a_fork_a_friend() -> None:
    """Names can be chosen: a fork may be called as the repository is, its owner as somebody else."""
    one = changed(
        delivery("github_pull_request_fork"), "pull_request", "head", "repo", "full_name", value="acme/widgets"
    )
    one = changed(one, "sender", "login", value="ada")
    event = read(one)
    assert (event.fork, event.actor_id) == (True, "33")


@pytest.mark.parametrize(
    ("name", "path", "value", "fault"),
    [
        ("github_push", ("ref",), ..., "ref: '' is neither a branch nor a tag"),
        ("github_push", ("ref",), "refs/heads/-rf", "ref: '-rf' is not the name"),
        ("github_push", ("ref",), "refs/heads/a b", "ref: 'a b' is not the name"),
        ("github_push", ("head_commit", "id"), "; rm -rf /", "after: '; rm -rf /' is not the id of a commit"),
        ("github_push", ("ref",), ["refs/heads/main"], "ref: '' is neither"),
        ("github_pull_request", ("pull_request",), ..., "number"),
        ("github_pull_request", ("pull_request", "head", "sha"), None, "pull_request.head.sha: '' is not"),
        ("github_pull_request", ("number",), -1, ""),
        ("gitlab_push", ("object_kind",), ..., "object_kind: is missing"),
        ("gitlab_push", ("ref",), "refs/tags/x", "ref: 'refs/tags/x' does not start with refs/heads/"),
        ("gitlab_push", ("after",), 7, "after: '' is not the id"),
        ("gitlab_merge_request", ("object_attributes", "iid"), None, "object_attributes.iid: is missing"),
    ],
)
def test_what_is_missing_is_told(name: str, path: tuple[str, ...], value: Any, fault: str) -> None:
    one = changed(delivery(name), *path, value=value)
    if not fault:
        assert read(one).number == 12
        return
    if "number" in fault:
        one = changed(one, "number", value=...)
    with pytest.raises(PayloadError) as refused:
        read(one)
    assert str(refused.value).startswith(fault)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"[]", "the body is not a JSON object"),
        (b'{"a": NaN}', "the body is not JSON"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"payload={}", "the body is not JSON"),
    ],
)
def test_bodies_that_are_none(body: bytes, fault: str) -> None:
    one = delivery("github_push")
    with pytest.raises(PayloadError, match=fault):
        read_event(one.forge, one.headers, body)


def test_a_form_is_read_as_github_sends_it() -> None:
    one = delivery("github_push").with_headers(content_type="application/x-www-form-urlencoded")
    form = urlencode({"payload": one.body.decode()}).encode()
    assert read_event(one.forge, one.headers, form) == read(delivery("github_push"))
    for body in (b"other=1", b"payload=%zz", b"\xff", one.body, b"&".join([b"a=1"] * 20)):
        with pytest.raises(PayloadError, match="application/json"):
            read_event(one.forge, one.headers, body)


def test_events_are_named_by_a_header() -> None:
    for text in ("", "x" * 65, "pu\nsh", "größe"):
        with pytest.raises(PayloadError, match="x-github-event"):
            read(delivery("github_push").with_headers(x_github_event=text))


def test_paths_are_unknown_unless_all_commits_are_listed() -> None:
    one = delivery("github_push")
    assert read(changed(one, "commits", value=[])).paths is None
    commit = json.loads(one.body)["commits"][0]
    assert read(changed(one, "commits", value=[commit] * 2_048)).paths is None
    many = {**commit, "added": [f"f{number}" for number in range(3_001)], "modified": [], "removed": []}
    assert read(changed(one, "commits", value=[many])).paths is None
    assert read(changed(delivery("gitea_push"), "total_commits", value=30)).paths is None
    odd = {**commit, "added": [1, None, "ok"], "modified": "src", "removed": {}}
    assert read(changed(one, "commits", value=[odd])).paths == ("ok",)


def test_a_generic_event_has_what_it_says() -> None:
    body = {
        "event": "deploy",
        "branch": "main",
        "tag": "v1",
        "commit": "1A2B3C4",
        "actor": "cron\0box",
        "fork": True,
        "paths": ["a", "b"],
        "number": 3,
        "build": {"id": 7, "name": "\ud800 x"},
    }
    event = read(generic(body, delivery_id="d-1"))
    assert (event.kind, event.branch, event.tag, event.commit) == ("deploy", "main", "v1", "1a2b3c4")
    assert (event.actor, event.fork, event.paths, event.number, event.ref) == ("cronbox", True, ("a", "b"), 3, "main")
    assert event.payload is not None
    assert event.payload["build"] == {"id": 7, "name": "? x"}
    assert read(generic({"event": "x"})).paths is None
    assert read(generic({"event": "x", "message": "Later [CI SKIP]"})).ignored
    assert read(generic({"event": "x", "data": "y" * 5_000})).payload == {"event": "x", "data": "y" * 4_096}
    assert read(generic({"event": "x", "data": ["y" * 3_000] * 3})).payload is None
    deep: Any = 1
    for _ in range(20):
        deep = [deep]
    assert read(generic({"event": "x", "data": deep})).payload is None
    for wrong in (
        {},
        {"event": ""},
        {"event": "a b"},
        {"event": 1},
        {"event": "x", "branch": "-x"},
        {"event": "x", "commit": "y"},
    ):
        with pytest.raises(PayloadError):
            read(generic(wrong))


def test_texts_of_one_line_steer_nothing_and_read_as_nothing_else() -> None:
    hostile = "\x1b[2J\u0085a\r\n\tb\x9bc\u202ed\u2066e\u2028f\x7f"
    shown = "\ufffd[2J\ufffda b\ufffdc\ufffdd\ufffde f\ufffd"
    keys = ("actor", "repo", "action", "title", "url", "head_branch", "base_branch")
    event = read(generic({"event": "x", "branch": "main", **dict.fromkeys(keys, hostile), "message": "a\nb"}))
    assert {key: getattr(event, key) for key in keys} == dict.fromkeys(keys, shown)
    assert event.message == "a\nb"
    assert read(generic({"event": "x", "actor": "\x07" * 500})).actor == "\ufffd" * 85
    assert read(generic({"event": "x", "repo": "ac\u202eme/x"})).repo != "acme/x"


@pytest.mark.parametrize("name", ["ma\u202ein", "main\x9b31m", "main\u2028", "ma\u2066in", "main\x85"])
def test_a_branch_with_a_misleading_name_is_refused_and_not_taken_for_another(name: str) -> None:
    for key in ("branch", "tag"):
        with pytest.raises(PayloadError, match="is not the name of a branch or tag") as refused:
            read(generic({"event": "x", key: name}))
        assert str(refused.value).isprintable()


@pytest.mark.parametrize("number", ["1e999", "-1e999", str(2**63), str(-(2**63) - 1), "1" + "0" * 400])
def test_a_number_that_nobody_can_keep_is_refused(number: str) -> None:
    """Read as infinite it would not be stored; stored as it is, its run could not be shown."""
    body = b'{"event": "x", "data": [1, {"n": %s}]}' % number.encode()
    one = replace(generic({"event": "x"}), body=body)
    with pytest.raises(PayloadError, match=r"'data.1.n': the number is beyond 64 bits: send it as a text"):
        read(one)
    kept = [2**63 - 1, -(2**63), 1.5e308, True, None]
    assert read(generic({"event": "x", "data": kept})).payload == {"event": "x", "data": kept}


def test_ids_of_deliveries() -> None:
    assert delivery_id(Forge.GITHUB, delivery("github_push").headers).startswith("72d3162e-")
    assert delivery_id(Forge.GITEA, delivery("gitea_push").headers).startswith("72d3162e-")
    one = delivery("gitlab_push")
    assert delivery_id(Forge.GITLAB, one.headers) == one.headers["idempotency-key"]
    # Events that follow from each other share their UUID, so it names no delivery.
    assert delivery_id(Forge.GITLAB, one.without("idempotency-key").headers) == ""
    assert delivery_id(Forge.GENERIC, {"x-arcentra-delivery": " a "}) == "a"
    for odd in ("x" * 129, "ü", "a\tb"):
        assert delivery_id(Forge.GENERIC, {"x-arcentra-delivery": odd}) == ""


def test_what_expressions_see() -> None:
    context = read(delivery("github_pull_request_fork")).context()
    assert context["fork"] is True
    assert (context["kind"], context["branch"], context["head_branch"], context["number"]) == (
        "pull_request",
        "main",
        "main",
        12,
    )
    assert "payload" not in context
    assert read(generic({"event": "x", "a": 1})).context()["payload"] == {"event": "x", "a": 1}


long_text = st.one_of(st.text(max_size=20), st.integers(0, 6_000).map(lambda size: "ü\0" * size))


@given(
    st.builds(
        lambda **fields: {key: value for key, value in fields.items() if value is not None},
        event=st.just("x"),
        repo=long_text,
        actor=long_text,
        title=long_text,
        message=long_text,
        url=long_text,
        head_branch=long_text,
        paths=st.one_of(st.none(), st.integers(0, 3_001).map(lambda size: ["some/path/of/a/file"] * size)),
        extra=st.one_of(st.none(), long_text),
    )
)
@settings(max_examples=100, deadline=None)
def test_what_expressions_see_is_small(body: dict[str, Any]) -> None:
    event = read(generic(body))
    text = json.dumps(event.context(), ensure_ascii=False, separators=(",", ":"))
    assert len(text.encode()) <= LARGEST_CONTEXT
    assert "\\u0000" not in json.dumps(event.to_json())


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(NAMES), st.data())
@settings(max_examples=300, deadline=None)
def test_any_body_is_an_event_or_has_a_fault(name: str, data: st.DataObject) -> None:
    """Whatever stands where: nothing but a fault comes of it."""
    one = delivery(name)
    body = json.loads(one.body)
    place = body
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(junk)
        break
    try:
        event = read_event(one.forge, one.headers, json.dumps(body).encode())
    except PayloadError:
        return
    assert ForgeEvent.from_json(event.to_json()) == event
    assert event.summary()
