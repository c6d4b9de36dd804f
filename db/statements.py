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


def lock_in_order(connection: sa.Connection, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> None:
    """Lock rows in the order of their keys, as whoever changes several of a table does, so that none waits in a circle.

    Only where nothing else keeps two apart that change the same rows, as the lock on an annotation does for most.
    """
    key = list(table.primary_key)
    connection.execute(sa.select(*key).where(*conditions).order_by(*key).with_for_update()).all()


def insert_rows(
    connection: sa.Connection,
    table: sa.Table,
    columns: Sequence[str],
    annotation_id: int,
    rows: Iterable[Sequence[Any]],
    *,
    replace: bool = False,
) -> None:
    """Insert an annotation's rows straight through the driver, as each database likes them best.

    Args:
        connection: in a transaction.
        table: one whose first column is annotation_id.
        columns: names of the values in each row.
        annotation_id: whose rows.
        rows: may be empty.
        replace: whether rows take the place of those with the same key, or are refused; then the first column is
            the key, and ascends.
    """
    values = [(annotation_id, *row) for row in rows]
    if not values:
        return
    if connection.dialect.name == "postgresql":
        _copy(connection, table, columns, values, replace)
        return
    marks = ", ".join("?" * (len(columns) + 1))
    verb = "INSERT OR REPLACE" if replace else "INSERT"
    statement = f"{verb} INTO {table.name} (annotation_id, {', '.join(columns)}) VALUES ({marks})"
    connection.exec_driver_sql(statement, values)


def _copy(
    connection: sa.Connection, table: sa.Table, columns: Sequence[str], values: list[tuple[Any, ...]], replace: bool
) -> None:
    """PostgreSQL's own way for many rows; COPY replaces nothing, so what is in the way goes first."""
    if replace:
        number = table.c[columns[0]]
        first, last = values[0][1], values[-1][1]
        connection.execute(sa.delete(table).where(table.c.annotation_id == values[0][0], number.between(first, last)))
    cursor: Any = connection.connection.cursor()
    with cursor.copy(f"COPY {table.name} ({', '.join(('annotation_id', *columns))}) FROM STDIN") as copy:
        for row in values:
            copy.write_row(row)
