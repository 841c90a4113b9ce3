"""Deliveries of GitLab. A merge request is a pull request here."""

from __future__ import annotations

from arcentra_server.domain.forge import ForgeEvent, Kind
from arcentra_server.domain.forge_payload import (
    HEADS,
    SKIPPED,
    TAGS,
    Node,
    PayloadError,
    asks_to_skip,
    changed_paths,
    commit_of,
    is_zero,
    ref_of,
)

_ACTIONS = {"open": "opened", "reopen": "reopened", "update": "synchronize"}


def read(payload: Node) -> ForgeEvent:
    """Read a delivery.

    Raises:
        PayloadError: a part that the event must have is missing.
    """
    kind = payload.name("object_kind")
    if kind == "push":
        return _push(payload, HEADS)
    if kind == "tag_push":
        return _push(payload, TAGS)
    if kind == "merge_request":
        return _merge_request(payload)
    if not kind:
        raise PayloadError("object_kind: is missing")
    return ForgeEvent(
        kind,
        repo=payload.name("project", "path_with_namespace"),
        actor=payload.name("user", "username"),
        actor_id=payload.identity("user", "id"),
        ignored=f"the event {kind!r} starts nothing: only push, tag and pull_request do",
    )


def _push(payload: Node, prefix: str) -> ForgeEvent:
    full = payload.text("ref")
    if not full.startswith(prefix):
        raise PayloadError(f"ref: {full[:80]!r} does not start with {prefix}")
    name = ref_of(full.removeprefix(prefix), "ref")
    is_tag = prefix == TAGS
    after = commit_of(payload.text("after"), "after")
    # Of an annotated tag, `after` is the tag itself.
    commit = payload.text("checkout_sha") or after
    commits = payload.at("commits")
    message = _head_message(commits, commit)
    ignored = SKIPPED if asks_to_skip(message) else ""
    return ForgeEvent(
        Kind.TAG if is_tag else Kind.PUSH,
        repo=payload.name("project", "path_with_namespace"),
        repo_id=payload.identity("project", "id") or payload.identity("project_id"),
        clone_url=payload.text("project", "git_http_url"),
        ssh_url=payload.text("project", "git_ssh_url"),
        branch="" if is_tag else name,
        tag=name if is_tag else "",
        ref=full if is_tag else name,
        commit="" if is_zero(after) else commit_of(commit, "checkout_sha"),
        actor=payload.name("user_username") or payload.name("user_name"),
        actor_id=payload.identity("user_id"),
        message=message,
        url=payload.line("project", "web_url"),
        paths=None if is_tag else changed_paths(commits, payload.number("total_commits_count")),
        ignored="the branch or tag was deleted" if is_zero(after) else ignored,
    )


def _head_message(commits: Node, head: str) -> str:
    return next((commit.text("message") for commit in commits.items() if commit.text("id") == head), "")


def _merge_request(payload: Node) -> ForgeEvent:
    request = payload.at("object_attributes")
    action = request.name("action")
    source, target = request.identity("source_project_id"), request.identity("target_project_id")
    # A project that is not named, as one that was deleted, is not the one the code goes to.
    fork = not source or source != target
    number = request.number("iid")
    if not number:
        raise PayloadError("object_attributes.iid: is missing")
    head_branch = ref_of(request.text("source_branch"), "object_attributes.source_branch")
    base_branch = ref_of(request.text("target_branch"), "object_attributes.target_branch")
    message = request.text("last_commit", "message")
    return ForgeEvent(
        Kind.PULL_REQUEST,
        repo=payload.name("project", "path_with_namespace"),
        repo_id=target,
        clone_url=payload.text("project", "git_http_url"),
        ssh_url=payload.text("project", "git_ssh_url"),
        branch=base_branch,
        # The branch of a fork is not in the repository that is cloned; this is where the host keeps its commits.
        ref=f"refs/merge-requests/{number}/head" if fork else head_branch,
        commit=commit_of(request.text("last_commit", "id"), "object_attributes.last_commit.id"),
        action=_ACTIONS.get(action, action),
        actor=payload.name("user", "username"),
        actor_id=payload.identity("user", "id"),
        head_branch=head_branch,
        base_branch=base_branch,
        head_repo_id=source,
        fork=fork,
        number=number,
        title=request.line("title"),
        message=message,
        url=request.line("url"),
        ignored=_why_ignored(action, message, has_new_code=bool(request.text("oldrev"))),
    )


def _why_ignored(action: str, message: str, *, has_new_code: bool) -> str:
    if action not in _ACTIONS:
        return f"the action {action!r} of a pull request changes no code"
    if action == "update" and not has_new_code:
        return "the update of the pull request changes no code"
    return SKIPPED if asks_to_skip(message) else ""
