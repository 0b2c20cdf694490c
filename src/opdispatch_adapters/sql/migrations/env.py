"""Runs the migrations on the connection that the caller opened, inside its transaction.

No ini file and no logging set-up: the host's logging is the host's.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
