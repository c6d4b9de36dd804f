"""What Alembic runs to migrate: on the connection, and in the transaction, that `db.session.migrate` hands it.

To write a new revision, copy the newest file of `versions/` and name it in `db.session.REVISIONS`.
"""

from alembic import context

from db.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
