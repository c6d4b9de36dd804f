"""On SQLite, ids of rows that may be deleted are never given again, so that nobody takes a new row for the one he knew.

PostgreSQL, whose sequences only rise, needs nothing.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TABLES = ("videos", "annotations", "hooks", "hook_deliveries", "alert_rules")


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return
    # Otherwise dropping a table would delete all that refers to it; `db.session.migrate` sees to that.
    assert not connection.exec_driver_sql("PRAGMA foreign_keys").scalar()
    connection.exec_driver_sql(
        "PRAGMA legacy_alter_table = ON"
    )  # renaming touches nothing else, views of users neither
    connection.exec_driver_sql("PRAGMA secure_delete = ON")  # no copy of a name stays behind that is to be forgotten
    for table in _TABLES:
        _rebuild(connection, table)


def _rebuild(connection: sa.Connection, table: str) -> None:
    """SQLite's own procedure (https://www.sqlite.org/lang_altertable.html#otheralter), on the statements it keeps."""
    of_it = "FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL"
    made = str(connection.exec_driver_sql(f"SELECT sql {of_it} AND type = 'table'", (table,)).scalar_one())
    if "AUTOINCREMENT" in made:  # from before a downgrade
        return
    kept = f"SELECT sql {of_it} AND type IN ('index', 'trigger')"
    rest = list(connection.exec_driver_sql(kept, (table,)).scalars())
    _, bracket, body = made.partition("(")
    numbered = body.replace("PRIMARY KEY (id)", "PRIMARY KEY (id AUTOINCREMENT)")
    assert numbered != body
    connection.exec_driver_sql(f"CREATE TABLE rebuilt_{table} {bracket}{numbered}")
    connection.exec_driver_sql(f"INSERT INTO rebuilt_{table} SELECT * FROM {table}")
    connection.exec_driver_sql(f"DROP TABLE {table}")
    connection.exec_driver_sql(f"ALTER TABLE rebuilt_{table} RENAME TO {table}")
    for statement in rest:
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    """Nothing: it is no harm to those before."""
