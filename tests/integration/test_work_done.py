"""How much work a video takes, counted and not timed: whoever lets it grow hears of it here.

One clip of 20 seconds is cut into five spans of four. The limits are what it takes today, with a little to spare where
threads or the clock decide; where work becomes less, lower them. Spans this short read much twice: five seconds of
sound and up to two of pictures before each, a second after it.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from av.video.frame import VideoFrame

from db.identity import Source
from db.rows import SpanClaim
from db.store import Store
from models.audio import AudioEmotionModel
from models.expression import ExpressionModel
from tests import instant
from tests.clips import BoardWatcher, LoudListener, Pictures, Track, steady, write
from worker.channel import Channel
from worker.decoder import SpanReader
from worker.decoder_media import Media
from worker.decoder_open import DescriptorFile
from worker.decoder_video import Converter, PictureTrack
from worker.pipeline import DONE, Pipeline
from worker.protocol import Event, Probe, Progress
from worker.recognizers import Recognizers
from worker.ring import Ring
from worker.span import SpanRun, planned, read_request

SECONDS, N_SPANS = 20, 5
RECIPE = instant.recipe(SECONDS // N_SPANS)
STRUCTURE = "keyint=50:min-keyint=50:scenecut=0:bframes=3:b-adapt=0:b-pyramid=none"  # half of the frames: no reference

READING = {
    "packets": 3382,
    "frames decoded": 480,
    "frames converted": 120,
    "pictures looked at": 120,
    "chunks listened to": 1365,
    "events": 182,
}
TRAVELLING = {
    "messages": 184,
    "bytes through the ring": 1_537_000,
    "bytes over the socket": 320_000,
}
JUDGING = {
    "windows of sound": 20,
    "faces": 120,
    "calls of the audio model": 8,
    "calls of the face network": 8,
    "rows given to the audio model": 32,
    "rows given to the face network": 160,
}
STORING = {
    "statements for a video": 44,
    "statements for each more span": 9,
    "transactions for a video": 16,
    "transactions for each more span": 4,
}


def grown(found: Counter[str], limits: dict[str, int]) -> list[str]:
    """What there is more of than there may be, and by how much; also what was not counted at all."""
    more = [
        f"{name}: {found[name]} instead of at most {limit}, {found[name] / limit - 1:.0%} more"
        for name, limit in limits.items()
        if found[name] > limit
    ]
    return more + [f"{name}: none were counted" for name in limits if not found[name]]


def count(
    monkeypatch: pytest.MonkeyPatch, found: Counter[str], name: str, owner: type, method: str,
    amount: Callable[..., int] = lambda *_: 1,
) -> None:  # fmt: skip
    """Count a method's calls, or what `amount` says of each call's arguments, its own object left out."""
    real = getattr(owner, method)

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        found[name] += amount(*arguments)
        return real(self, *arguments, **options)

    monkeypatch.setattr(owner, method, counted)


class Tools:
    """What the decoding child has, here in this process."""

    thread_count = 1
    watcher, listener = BoardWatcher(), LoudListener()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    pictures = Pictures(steady(SECONDS), options={"preset": "veryfast", "x264-params": STRUCTURE})
    return write(tmp_path_factory.mktemp("clip") / "a.mp4", pictures, [Track(seconds=float(SECONDS))])


def claims() -> list[SpanClaim]:
    probe = Probe(container="mov", duration_seconds=float(SECONDS), seekable=True)
    held = {"annotation_id": 1, "owner": "me", "epoch": 1, "attempts": 1, "windows_done": 0}
    return [SpanClaim(**vars(span), **held) for span in planned(RECIPE.plan, probe)]


def read(path: Path, claim: SpanClaim) -> list[Event]:
    """A span's events, read in this process."""
    with path.open("rb") as file, closing(Media(DescriptorFile(file.fileno()), 1)) as media:
        return list(SpanReader(media, read_request(claim, RECIPE), Tools()).events())


def test_what_is_read(clip, monkeypatch):
    found: Counter[str] = Counter()
    real = Media.packets

    def packets(self):
        for packet in real(self):
            found["packets"] += 1
            yield packet

    monkeypatch.setattr(Media, "packets", packets)
    count(monkeypatch, found, "frames decoded", PictureTrack, "add", lambda frame, *_: isinstance(frame, VideoFrame))
    count(monkeypatch, found, "frames converted", Converter, "convert")
    count(monkeypatch, found, "pictures looked at", BoardWatcher, "look")
    count(monkeypatch, found, "chunks listened to", LoudListener, "feed", lambda samples: len(samples) // 512)
    assert len(claims()) == N_SPANS
    for claim in claims():
        found["events"] += len(read(clip, claim))
    assert not grown(found, READING), dict(found)


def test_what_travels_from_the_children(clip, monkeypatch, tmp_path):
    found: Counter[str] = Counter()
    real = Channel.receive

    def receive(self):
        message = real(self)
        found["messages"] += not isinstance(message, Progress)  # which come by the clock
        return message

    monkeypatch.setattr(Channel, "receive", receive)
    count(monkeypatch, found, "bytes through the ring", Ring, "take", lambda position, length: length)
    count(monkeypatch, found, "bytes over the socket", Channel, "_read", lambda length: length)
    annotate(monkeypatch, tmp_path, clip, N_SPANS)
    assert not grown(found, TRAVELLING), dict(found)


def test_what_models_are_asked(clip, monkeypatch):
    found: Counter[str] = Counter()
    for name, owner in (("audio model", AudioEmotionModel), ("face network", ExpressionModel)):
        monkeypatch.setattr(owner, "load", lambda *_, name=name, **__: Counting(found, name))
    count(monkeypatch, found, "windows of sound", Recognizers, "submit_audio")
    count(monkeypatch, found, "faces", Recognizers, "submit_face")
    spans = [(claim, read(clip, claim)) for claim in claims()]
    with Recognizers(RECIPE, "cpu") as models:
        for claim, events in spans:
            run = SpanRun(claim, RECIPE, models, has_audio=True, has_video=True)
            assert sum(map(len, run.rows(events))) == SECONDS // N_SPANS
    assert not grown(found, JUDGING), dict(found)


class Counting:
    """Stands where a model stands, and says the same of every row."""

    def __init__(self, found: Counter[str], name: str) -> None:
        self._found, self._name = found, name

    def predict(self, rows: np.ndarray, *_: np.ndarray) -> np.ndarray:
        """Probabilities (n, 8) float32."""
        self._found[f"calls of the {self._name}"] += 1
        self._found[f"rows given to the {self._name}"] += len(rows)
        return np.full((len(rows), 8), 0.125, np.float32)


def test_what_the_database_is_asked(clip, monkeypatch, tmp_path):
    found: Counter[str] = Counter()
    for n_spans in (1, N_SPANS):
        asked: Counter[str] = Counter()

        def listen(store: Store, asked: Counter[str] = asked) -> None:
            def statement(connection: Any, cursor: Any, said: str, *_: Any) -> None:
                asked["transactions" if said.startswith("BEGIN") else "statements"] += 1

            sa.event.listen(store.engine, "before_cursor_execute", statement)

        annotate(monkeypatch, tmp_path, clip, n_spans, listen)
        with Store(str(tmp_path / f"{n_spans}.db")) as store:
            assert len(store.spans(1)) == n_spans
        for name, number in asked.items():
            found[f"{name} for each more span"] = -(-(number - found[f"{name} for a video"]) // (N_SPANS - 1))
            found[f"{name} for a video"] = found[f"{name} for a video"] or number
    assert not grown(found, STORING), dict(found)


def annotate(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    clip: Path,
    n_spans: int,
    listen: Callable[[Store], None] = lambda store: None,
) -> None:
    """Annotate the clip into a new database, which has all its tables before it is listened to."""
    instant.install(monkeypatch)
    with (
        Store(str(folder / f"{n_spans}.db")) as store,
        Pipeline(store, instant.recipe(SECONDS // n_spans), "cpu", children=1) as pipeline,
    ):
        listen(store)
        assert [outcome.status for outcome in pipeline.annotate([Source.of(clip, clip.stat())])] == [DONE]


def test_growth_is_told_with_its_size():
    found = Counter({"frames": 120, "messages": 90})
    assert grown(found, {"frames": 100, "messages": 90}) == ["frames: 120 instead of at most 100, 20% more"]
    assert grown(found, {"bytes": 5}) == ["bytes: none were counted"]
