"""Alembic's migrations, one file a revision. `db.session.migrate` runs them and makes the views anew."""
