"""What SQLAlchemy says differently for each database, and many rows at once."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa


def upsert(connection: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that knows ON CONFLICT, which every dialect of SQLAlchemy has to itself."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table)
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert(table)


def unix_now(dialect: str) -> sa.ColumnElement[float]:
    """Unix time by the database's clock, seconds; the one clock that all workers share."""
    if dialect == "postgresql":
        return sa.literal_column("EXTRACT(EPOCH FROM clock_timestamp())", sa.Double)
    return sa.literal_column("((julianday('now') - 2440587.5) * 86400.0)", sa.Double)  # 2440587.5: 1970-01-01


def insert_rows(
    connection: sa.Connection,
    table: sa.Table,
    columns: Sequence[str],
    annotation_id: int,
    rows: Iterable[Sequence[Any]],
    *,
    replace: bool = False,
) -> None:
    """Insert an annotation's rows straight through the driver, which is several times faster than row by row in Core.

    Args:
        connection: in a transaction.
        table: one whose first column is annotation_id.
        columns: names of the values in each row.
        annotation_id: whose rows.
        rows: may be empty.
        replace: whether a row takes the place of one with the same key, or is refused.
    """
    values = [(annotation_id, *row) for row in rows]
    if not values:
        return
    mark = "%s" if connection.dialect.name == "postgresql" else "?"
    marks = ", ".join([mark] * (len(columns) + 1))
    statement = f"INSERT INTO {table.name} (annotation_id, {', '.join(columns)}) VALUES ({marks})"
    if replace:
        key = [column.name for column in table.primary_key]
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
        statement += f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"
    connection.exec_driver_sql(statement, values)
