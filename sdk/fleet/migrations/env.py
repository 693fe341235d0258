"""Alembic's entry: it runs inside the transaction that sdk.fleet.database has opened."""

from alembic import context

from sdk.fleet.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
context.run_migrations()
