"""The command `moodreel roles`: least-privilege roles of PostgreSQL."""

import os

from rich.console import Console
from rich.text import Text

from db.roles import ROLES, statements
from db.session import open_engine
from db.store import Store


def password_variable(role: str) -> str:
    """The environment variable that has a role's password."""
    return f"{role.upper()}_PASSWORD"


def make_roles(db_url: str, *, only_print: bool) -> None:
    """Make the roles and say what became of each, or print the SQL that would.

    Raises:
        BadOption: the database is no PostgreSQL database.
    """
    console = Console()
    if only_print:
        for statement in statements(str(open_engine(db_url).url.database), list(ROLES)):
            console.print(Text(f"{statement};"), soft_wrap=True)
        return
    passwords = {role: given for role in ROLES if (given := os.environ.get(password_variable(role)))}
    with Store(db_url) as store:
        new = store.make_roles(passwords)
    for role, purpose in ROLES.items():
        state = "new" if role in new else "there"
        said = "password set" if role in passwords else f"password as it was; {password_variable(role)} sets one"
        console.print(Text(f"{role} ({state}; {said}): {purpose}"), soft_wrap=True)
