"""What the README shows works as it stands there."""

import re
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

ROOT = Path(__file__).parent.parent.parent
QUERIES = re.findall(r"```sql\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_there_are_five_queries():
    assert len(QUERIES) >= 5


@pytest.mark.parametrize("query", QUERIES)
def test_the_queries_run(query, store, migrated_url):
    engine = sa.create_engine(migrated_url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql(query).fetchall() == []


def test_the_queries_find_something(annotated_talk):
    with sqlite3.connect(annotated_talk / "moodreel.db") as db:
        counts = [len(db.execute(query).fetchall()) for query in QUERIES]
    assert counts[1] == 3  # every video has a summary
    assert counts[2] > 0  # voice and face never agree all the time
    assert counts[3] > 0
    assert counts[4] == 1  # the empty file


@pytest.fixture
def annotated_talk(media, tmp_path):
    from tests.acceptance.test_annotate import moodreel

    (tmp_path / "empty.mp4").touch()
    names = ("obama_speech.mp4", "WolfgangLanger_Pexels.mp4", "park.mp4")
    moodreel("annotate", *(media / name for name in names), "empty.mp4", cwd=tmp_path)
    return tmp_path
