"""Files for a fleet that runs for hours: whole ones, broken ones and hostile ones, drawn from a seed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests import archive
from tests.clips import Pictures, Track, steady, write
from tests.fuzz import seeds
from tests.fuzz.mutate import mutate

SHARES = {"good": 0.5, "broken": 0.35, "hostile": 0.15}
N_GOOD, GOOD_SECONDS = 24, (2.0, 4.0)
FORGED_SIDE = 12_000  # pixels, as a header claims

_TEXTS = {
    "playlist.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:8\n#EXTINF:8,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
    "concat.mkv": "ffconcat version 1.0\nfile '/etc/hostname'\n",
    "description.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "page.mov": "<!DOCTYPE html><html><body>404</body></html>",
    "nothing.mp4": "",
}


class Files:
    """Makes files one after another.

    Args:
        folder: for what they are made of.
        seed: of all that is drawn.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        for part in ("good", "seeds", "planted"):
            (folder / part).mkdir(parents=True)
        self._good = [path.read_bytes() for path in archive.make(folder / "good", N_GOOD, GOOD_SECONDS, seed)]
        self._seeds = seeds.make(folder / "seeds")
        archive.plant(folder / "planted")
        self._hostile = {name: text.encode() for name, text in _TEXTS.items()}
        self._hostile["crash.mp4"] = (folder / "planted" / "planted-crash.mp4").read_bytes()
        self._hostile["noise.mp4"] = self._random.integers(0, 256, 50_000, np.uint8).tobytes()
        self._hostile["streams.mkv"] = _many_streams(folder)
        self._hostile["bomb.avi"] = _bomb(folder)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Names and contents, without an end."""
        whole, kinds = [*self._seeds.values(), *self._good], list(SHARES)
        while True:
            kind = kinds[int(self._random.choice(len(kinds), p=list(SHARES.values())))]
            if kind == "good":
                yield "good.mp4", self._good[int(self._random.integers(len(self._good)))]
            elif kind == "broken":
                content, _ = mutate(self._random, whole[int(self._random.integers(len(whole)))], whole)
                yield "broken.mp4", content
            else:
                name = list(self._hostile)[int(self._random.integers(len(self._hostile)))]
                yield f"hostile-{name}", self._hostile[name]


def _many_streams(folder: Path) -> bytes:
    return write(folder / "streams.mkv", Pictures(steady(0.5)), [Track(seconds=0.5)] * 80).read_bytes()


def _bomb(folder: Path) -> bytes:
    """Pictures of `FORGED_SIDE` pixels on a side, by the header: so they would be decoded, of a few bytes each."""
    pictures = Pictures(steady(0.5), codec="huffyuv", pix_fmt="rgb24", options={}, width=96, height=64)
    content = bytearray(write(folder / "bomb.avi", pictures).read_bytes())
    at = content.index(b"strf") + 8 + 4  # in BITMAPINFOHEADER
    content[at : at + 8] = FORGED_SIDE.to_bytes(4, "little") * 2
    return bytes(content)
