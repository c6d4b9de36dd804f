"""The command `doctor`: is everything in place on this machine?"""

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.identity import printable
from scheduler.cli import print_json

if TYPE_CHECKING:
    from worker.protocol import Event, ReadRequest

PACKAGES = ("moodreel", "sqlalchemy", "celery", "redis")
MAX_DISAGREEMENT = 1.0  # of 255: decoders agree to the bit, and what turns their pictures into RGB nearly
WORKER_PACKAGES = ("torch", "transformers", "av", "onnxruntime", "opencv-python-headless")


@dataclass(frozen=True)
class Finding:
    """What one check found; `lacking`: something is not there that can be done without."""

    check: str
    fine: bool
    says: str
    lacking: bool = False


class _Lacking(Exception):  # noqa: N818 - nothing went wrong
    """Raised where a check finds that something is not there that can be done without."""


def examine(db_url: str, as_json: bool) -> bool:
    """Run every check, print what it says; True if all is well."""
    findings = [_run(name, check) for name, check in _checks(db_url)]
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    else:
        _print(findings)
    return all(finding.fine for finding in findings)


def _checks(db_url: str) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "python", lambda: f"{platform.python_version()} on {platform.machine()} {platform.system()}"
    for package in PACKAGES:
        yield package, partial(version, package)
    if find_spec("torch") is None:
        yield "worker", lambda: "not installed; to annotate: pip install 'moodreel[worker]'"
    else:
        for package in WORKER_PACKAGES:
            yield package, partial(version, package)
        from worker import sandbox

        yield "device", _device
        yield "weights", _weights
        yield "decoding", _decoding
        for layer in sandbox.LAYERS:
            yield f"sandbox: {layer}", partial(_layer, layer)
        if _has_gpu():
            yield "nvdec", _nvdec
    yield "database", lambda: _database(db_url)


def _run(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except _Lacking as missing:
        return Finding(name, True, str(missing), lacking=True)
    except PackageNotFoundError:
        return Finding(name, False, "not installed")
    except Exception as error:  # noqa: BLE001 - a check that fails is a finding, whatever the reason
        return Finding(name, False, f"{type(error).__name__}: {error}")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    return f"cpu, {torch.get_num_threads()} threads (torch finds no usable GPU)"


def _weights() -> str:
    """Load both models for real and let each judge one example."""
    import numpy as np

    from models.audio import AudioEmotionModel
    from models.expression import ExpressionModel
    from models.faces import FaceDetector
    from models.presets import COMPACT
    from models.voice import VoiceDetector

    audio = AudioEmotionModel.load(COMPACT.audio.folder, window_seconds=2.0)
    audio.predict(np.zeros((1, 32_000), np.float32), np.array([32_000]))
    face = ExpressionModel.load(COMPACT.face.folder)
    face.predict(np.zeros((1, 48, 48), np.uint8))
    VoiceDetector().feed(np.zeros(512, np.float32))
    FaceDetector().detect(np.zeros((120, 160, 3), np.uint8))
    hashes = (COMPACT.audio.describe()["sha256"], COMPACT.face.describe()["sha256"])
    return "voice {:.8}, face {:.8}, both detectors load and run".format(*hashes)


def _decoding() -> str:
    """Write a short clip and read it back through the decoding child."""
    from worker.protocol import End, Picture, ReadRequest, Sound

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        codecs = _write_clip(path)
        events = _read(path, ReadRequest(frame_rate_hz=5.0))
    kinds = {type(event) for event in events}
    if not {End, Picture, Sound} <= kinds:
        raise RuntimeError(f"a clip that was just written came back without sound or pictures: {kinds}")
    return f"a clip with {codecs} comes back with sound and pictures"


@cache
def _missing() -> dict[str, str | None]:
    """For each layer of the decoding child's sandbox why it cannot be had here, found by a process that enters it."""
    command = [sys.executable, "-P", "-m", "worker.sandbox"]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)  # type: ignore[no-any-return]


def _layer(name: str) -> str:
    from worker.sandbox import LAYERS

    if _missing()[name] is not None:
        raise _Lacking(f"not on this system ({_missing()[name]}), so not: {LAYERS[name]}")
    return LAYERS[name]


def _nvdec() -> str:
    """Decode a clip on the GPU, and see that its pictures are the processor's."""
    found = disagreement("nvdec")
    if found > MAX_DISAGREEMENT:
        raise RuntimeError(f"its pictures differ from the processor's by {found:.1f} of 255 on average")
    return f"its pictures differ from the processor's by {found:.2f} of 255 on average"


def disagreement(decoder: str) -> float:
    """By how much the pictures of a clip differ that one decoder and the processor make of it.

    Returns:
        The mean absolute difference, of grey levels from 0 to 255.

    Raises:
        db.errors.DeviceUnavailable: there is no such decoder.
        RuntimeError: one of them gives other frames than the other.
    """
    import numpy as np

    from worker.protocol import Picture, ReadRequest

    request = ReadRequest(frame_rate_hz=25.0, face_every=25, frame_pixels=128)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        _write_clip(path, "libx264")
        ours, theirs = (
            {
                event.source_seconds: event.frame.astype(np.float32)
                for event in _read(path, request, one)
                if isinstance(event, Picture) and event.frame is not None
            }
            for one in ("cpu", decoder)
        )
    if not ours or ours.keys() != theirs.keys():
        raise RuntimeError(f"{len(theirs)} pictures came out instead of {len(ours)}, or at other times")
    return float(np.mean([np.abs(picture - theirs[t]) for t, picture in ours.items()]))


def _read(path: Path, request: "ReadRequest", decoder: str = "cpu") -> "list[Event]":
    import os

    from worker.reader import Reader

    descriptor = os.open(path, os.O_RDONLY)
    try:
        with Reader(decoder=decoder) as reader:
            return list(reader.read(descriptor, path.name, request))
    finally:
        os.close(descriptor)


def _write_clip(path: Path, codec: Literal["mpeg4", "libx264"] = "mpeg4") -> str:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 160, 128, "yuv420p"
        audio = container.add_stream("aac", rate=16_000)
        for shift in range(25):
            slope = (np.arange(160, dtype=np.uint8) + 3 * shift)[None, :, None]
            picture = np.broadcast_to(slope, (128, 160, 3))
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16_000
        container.mux(audio.encode(sound))
        container.mux(video.encode())
        container.mux(audio.encode())
    return "MPEG-4 and AAC"


def _database(db_url: str) -> str:
    from db.store import Store

    if "://" not in db_url and not Path(db_url).exists():
        return f"{db_url}: not there yet; `moodreel annotate` makes it"
    with Store(db_url, create=False) as store:
        return f"{store.name}: {store.status().videos} videos"


def _print(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        mark = Text("ok", style="green") if finding.fine else Text("BAD", style="red")
        mark = Text("--", style="yellow") if finding.lacking else mark
        table.add_row(mark, finding.check, Text(printable(finding.says)))  # plain: [worker] is no markup
    Console().print(table)
