"""Runs migrations on the connection that `arcentra_server.db.migrate` hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from arcentra_server.db.tables import metadata

connection = context.config.attributes["connection"]
# A migration waits for running work at most this long, then fails and can be repeated.
connection.execute(text("SET lock_timeout = '5s'"))
connection.commit()
context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
