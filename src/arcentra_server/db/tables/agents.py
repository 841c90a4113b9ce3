"""Keys, tokens and agents."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Index, LargeBinary, Table, Text, text

from arcentra_server.db.tables.columns import document, flag, identity, metadata, moment, one_of, whole, words
from arcentra_server.domain.states import AgentStatus

server_keys = Table(
    "server_keys", metadata, Column("name", Text, primary_key=True), Column("secret", LargeBinary, nullable=False)
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    words("kind", default=None),
    words("name", default=None),
    words("role", default=None),
    Column("secret_hash", LargeBinary, nullable=False),
    identity("agent_id", null=True, to="agents.id"),
    document("labels"),
    whole("max_uses", null=True),
    whole("uses"),
    moment("created_at", null=False, now=True),
    moment("expires_at"),
    moment("revoked_at"),
    moment("last_used_at"),
    flag("needs_approval"),
    one_of("kind", ("user", "registration", "agent"), "kind"),
    CheckConstraint("max_uses IS NULL OR uses <= max_uses", name="uses"),
    CheckConstraint("(kind = 'agent') = (agent_id IS NOT NULL)", name="agent"),
    Index("ix_tokens_agent", "agent_id", postgresql_where=text("agent_id IS NOT NULL")),
)

agents = Table(
    "agents",
    metadata,
    identity(key=True),
    words("name", default=None),
    words("ip"),
    words("os"),
    words("arch"),
    words("version"),
    whole("capacity", 1),
    document("claimed_labels"),
    document("server_labels"),
    words("status", default="OFFLINE"),
    document("metrics"),
    moment("created_at", null=False, now=True),
    moment("last_contact_at"),
    moment("lease_until"),
    moment("deleted_at"),
    flag("approved", "true"),
    flag("disabled"),
    flag("drained"),  # as an operator wants
    flag("draining"),  # as the agent itself says
    words("note"),
    moment("spared_at"),  # when its leases were renewed without a word of it
    one_of("status", AgentStatus, "status"),
    CheckConstraint("capacity BETWEEN 1 AND 10000", name="capacity"),
    postgresql_with={"fillfactor": "70"},
)
