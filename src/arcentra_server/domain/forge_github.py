"""Deliveries of GitHub, and of Gitea and Forgejo, which write them alike."""

from __future__ import annotations

from arcentra_server.domain.forge import Forge, ForgeEvent, Kind
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

# GitHub lists no more commits of a push than this, and does not say how many there are.
MOST_COMMITS = 2_048
_CODE_CHANGES = ("opened", "reopened", "synchronize", "synchronized")


def read(event: str, payload: Node, forge: Forge) -> ForgeEvent:
    """Read a delivery; `event` is what its header says.

    Raises:
        PayloadError: a part that the event must have is missing.
    """
    if event == "ping":
        return ForgeEvent("ping", ignored="a ping: the hook works")
    if event == "push":
        return _push(payload, forge)
    if event == "pull_request":
        return _pull_request(payload)
    return ForgeEvent(
        event,
        repo=payload.name("repository", "full_name"),
        action=payload.name("action"),
        actor=payload.name("sender", "login"),
        actor_id=payload.identity("sender", "id"),
        ignored=f"the event {event!r} starts nothing: only push, tag and pull_request do",
    )


def _push(payload: Node, forge: Forge) -> ForgeEvent:
    full = payload.text("ref")
    after = payload.text("after")
    tag, branch = "", ""
    if full.startswith(TAGS):
        tag = ref_of(full.removeprefix(TAGS), "ref")
    elif full.startswith(HEADS):
        branch = ref_of(full.removeprefix(HEADS), "ref")
    else:
        raise PayloadError(f"ref: {full[:80]!r} is neither a branch nor a tag")
    head = payload.at("head_commit")
    message = head.text("message")
    # Of an annotated tag, `after` is the tag itself.
    commit = commit_of(head.text("id") or after, "after")
    total = payload.number("total_commits") if forge is Forge.GITEA else None
    many = sum(1 for _ in payload.at("commits").items()) >= MOST_COMMITS
    return ForgeEvent(
        Kind.TAG if tag else Kind.PUSH,
        repo=payload.name("repository", "full_name"),
        repo_id=payload.identity("repository", "id"),
        clone_url=payload.text("repository", "clone_url"),
        ssh_url=payload.text("repository", "ssh_url"),
        branch=branch,
        tag=tag,
        ref=full if tag else branch,
        commit="" if is_zero(commit) else commit,
        actor=payload.name("sender", "login") or payload.name("pusher", "name"),
        actor_id=payload.identity("sender", "id"),
        message=message,
        url=payload.line("compare") or payload.line("compare_url"),
        paths=None if tag or many else changed_paths(payload.at("commits"), total),
        ignored=_why_ignored(deleted=payload.flag("deleted") or is_zero(after), message=message),
    )


def _why_ignored(*, deleted: bool, message: str) -> str:
    if deleted:
        return "the branch or tag was deleted"
    return SKIPPED if asks_to_skip(message) else ""


def _pull_request(payload: Node) -> ForgeEvent:
    request = payload.at("pull_request")
    head, base = request.at("head"), request.at("base")
    number = payload.number("number") or request.number("number")
    if not number:
        raise PayloadError("number: is missing")
    action = payload.name("action")
    base_repo = base.identity("repo", "id") or base.identity("repo_id") or payload.identity("repository", "id")
    head_repo = head.identity("repo", "id") or head.identity("repo_id")
    # A repository that is not named, as one that was deleted, is not the one the code goes to.
    fork = not head_repo or head_repo != base_repo
    head_branch = ref_of(head.text("ref"), "pull_request.head.ref")
    base_branch = ref_of(base.text("ref"), "pull_request.base.ref")
    return ForgeEvent(
        Kind.PULL_REQUEST,
        repo=payload.name("repository", "full_name"),
        repo_id=base_repo,
        clone_url=payload.text("repository", "clone_url"),
        ssh_url=payload.text("repository", "ssh_url"),
        branch=base_branch,
        # The branch of a fork is not in the repository that is cloned; this is where the host keeps its commits.
        ref=f"refs/pull/{number}/head" if fork else head_branch,
        commit=commit_of(head.text("sha"), "pull_request.head.sha"),
        action=action,
        actor=payload.name("sender", "login"),
        actor_id=payload.identity("sender", "id"),
        head_branch=head_branch,
        base_branch=base_branch,
        head_repo_id=head_repo,
        fork=fork,
        number=number,
        title=request.line("title"),
        url=request.line("html_url"),
        ignored="" if action in _CODE_CHANGES else f"the action {action!r} of a pull request changes no code",
    )
