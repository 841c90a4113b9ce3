"""Gates, as tables and as one line."""

from rich.console import Group, RenderableType
from rich.text import Text

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.render import waiting, words
from arcentra_cli.render.parts import columns, page, pairs
from arcentra_cli.terminal import one_line

_STYLES = {"PENDING": "yellow", "APPROVED": "green", "REJECTED": "red", "EXPIRED": "red", "CANCELLED": "magenta"}
_DECISIONS = {
    pipeline_pb2.APPROVAL_DECISION_APPROVE: "approved",
    pipeline_pb2.APPROVAL_DECISION_REJECT: "rejected",
}


def state(value: int) -> str:
    """`APPROVAL_STATE_PENDING` as `PENDING`; an unknown value as its number."""
    return words.enum_word(pipeline_pb2.ApprovalState.Name, "APPROVAL_STATE_", value)


def approvals(reply: pipeline_pb2.ListApprovalsResponse) -> RenderableType:
    """Gates, a row each."""
    table = columns("id", "state", "gate", "pipeline", "run", "votes", "approvers", "commit", "since", "until")
    for gate in reply.approvals:
        table.add_row(
            gate.approval_id,
            _styled_state(gate),
            waiting.gate_name(gate),
            f"{gate.namespace}/{gate.pipeline_name}",
            gate.run_id,
            waiting.votes(gate),
            waiting.names(gate.approvers) or "any approver",
            short(gate.commit_sha),
            words.moment(gate.created_at),
            words.moment(gate.expires_at),
        )
    return page(table, len(reply.approvals), reply.total, "approvals")


def approval(gate: pipeline_pb2.ApprovalDetail) -> RenderableType:
    """One gate with its votes."""
    is_pending = gate.state == pipeline_pb2.APPROVAL_STATE_PENDING
    rows: list[tuple[str, str | Text]] = [
        ("Approval", gate.approval_id),
        ("Gate", waiting.gate_name(gate)),
        ("State", _styled_state(gate)),
        ("Pipeline", f"{gate.namespace}/{gate.pipeline_name}"),
        ("Run", gate.run_id),
        ("Triggered by", gate.triggered_by),
        ("Commit", gate.commit_sha or "not known yet"),
        ("Definition", gate.spec_digest),
        ("Votes", waiting.votes(gate)),
        ("Approvers", ", ".join(gate.approvers) or "everybody with the role approver"),
        ("Separation", "who triggered the run may not decide" if gate.separation else ""),
        ("Reached", words.moment(gate.created_at)),
        ("Until", words.moment(gate.expires_at) if is_pending else ""),
        ("Decided", words.moment(gate.decided_at)),
        ("Decide", f"arcentra approval approve {gate.approval_id}" if is_pending else ""),
        ("", f"arcentra approval reject {gate.approval_id}" if is_pending else ""),
    ]
    if not gate.votes:
        return pairs(rows)
    return Group(pairs(rows), Text(""), _votes(gate))


def _votes(gate: pipeline_pb2.ApprovalDetail) -> RenderableType:
    table = columns("voter", "vote", "at", "comment")
    for vote in gate.votes:
        decision = _DECISIONS.get(vote.decision, str(vote.decision))
        table.add_row(vote.voter, decision, words.moment(vote.voted_at), one_line(vote.comment))
    return table


def voted(gate: pipeline_pb2.ApprovalDetail) -> RenderableType:
    """What a vote came to, in one line."""
    bound = f" at commit {short(gate.commit_sha)}" if gate.commit_sha else ""
    run = f" of run {gate.run_id} ({gate.namespace}/{gate.pipeline_name}){bound}"
    is_pending = gate.state == pipeline_pb2.APPROVAL_STATE_PENDING
    more = f", has {waiting.votes(gate)}" if is_pending else ""
    return Text.assemble(f"{waiting.gate_name(gate)}{run}: ", _styled_state(gate), more)


def short(commit_sha: str) -> str:
    """The beginning of a commit, as git shows it."""
    return commit_sha[:12]


def _styled_state(gate: pipeline_pb2.ApprovalDetail) -> Text:
    word = state(gate.state)
    return Text(word, style=_STYLES.get(word, ""))
