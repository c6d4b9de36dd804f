"""A real Chromium without a screen, and an archive to look at: a drawn clip and made-up results."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from db.rows import MediaFacts
from db.store import Store
from db.words import EMOTIONS
from tests.database import NOTHING, annotated, segment, window_row
from tests.servers import ServerMissing

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--window-size=1280,960",
)


@contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[webdriver.Chrome]:
    """Chromium with an empty profile, which writes down what it asks of the network.

    Raises:
        ServerMissing: it is not installed.
    """
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        raise ServerMissing("no Chromium: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = str(programs[0])
    for flag in (*FLAGS, f"--user-data-dir={profile}", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(programs[1])))
    try:
        yield driver
    finally:
        driver.quit()


def write_clip(path: Path, seconds: int = 20) -> Path:
    """A drawn clip in VP8, whose key frames are a second apart: a disc that wanders over a coloured ground."""
    y, x = np.mgrid[0:180, 0:320]
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libvpx", rate=10, options={"deadline": "realtime", "cpu-used": "8", "g": "10"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for number in range(seconds * 10):
            picture = np.stack([x * 0.3 + 40, y * 0.5 + 60, np.full_like(x, 120)], -1)
            at = 40 + 240 * number / (seconds * 10)
            picture[(x - at) ** 2 + (y - 90) ** 2 < 900] = (240, 220, 120)
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def add_video(store: Store, uri: str, seconds: int = 20, seed: int = 0) -> int:
    """A made-up result, with a stretch of each state at fixed places; the video's id.

    Nobody speaks in the second fifth, no face is seen in the third, the pictures of the fourth are unreadable.
    """
    random = np.random.default_rng(seed)
    walk = np.cumsum(random.normal(0, 0.7, (seconds - 1, 2, 8)), 0)
    scores = np.exp(walk) / np.exp(walk).sum(-1, keepdims=True)
    rows, fused = [], []
    for n in range(seconds - 1):
        fifth = 5 * n // (seconds - 1)
        audio = NOTHING if fifth == 1 else tuple(map(float, scores[n, 0]))
        video = NOTHING if fifth in (2, 3) else tuple(map(float, scores[n, 1]))
        changes = {"video_state": "unreadable"} if fifth == 3 else {}
        rows.append(window_row(n, audio, video, **changes))
        both = np.mean([side for side in (audio, video) if side != NOTHING], 0)
        best = int(both.argmax())
        fused.append((n, EMOTIONS[best], float(both[best]), 0.3, 0.1, *map(float, both)))
    timeline: list[Any] = []
    for n, row in enumerate(fused):
        end = float(seconds) if n == len(fused) - 1 else n + 1.0
        if timeline and timeline[-1].emotion == row[1]:
            timeline[-1] = segment(timeline[-1].start_seconds, end, row[1], timeline[-1].valence)
        else:
            timeline.append(segment(float(n), end, row[1], round(float(random.uniform(-0.8, 0.8)), 2)))
    annotated(store, uri, rows=rows, fused=fused, timeline=timeline)
    recorded = MediaFacts(recorded_at=datetime(2020 + seed % 6, 5, 1, tzinfo=UTC), recorded_at_source="container")
    return store.observe(uri, "1", 1000, recorded)
