"""What the reader and its child process say to each other. How it travels is `worker.channel`'s. Knows no media.

The child decodes files that nobody vouches for, so every value checks itself.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

SAMPLE_RATE_HZ = 16_000
CHUNK_SAMPLES = 512  # of the voice detector: 32 ms at 16 kHz
CROP_SIZE = 48  # pixels on each side of a face crop, unless more are asked for
SEARCH_SECONDS = 1.0  # from one picture that is searched for faces to the next; in between those found are followed
UNJUDGED = "unjudged"  # state of a picture that nobody looked at for faces


class ProtocolError(Exception):
    """Raised when a message is not one that the other side could have meant to send."""


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise ProtocolError(complaint)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a container says about itself; None where it says nothing.

    Attributes:
        container: FFmpeg's name of the format.
        duration_seconds: what the container promises; reading to the end settles it.
        seekable: whether reading may begin in the middle, so that the file can be cut into spans.
        width, height: of the coded picture, before rotation and pixel shape.
        rotation_degrees: counter-clockwise turn that puts the picture upright: 0, 90, 180 or 270.
        frame_rate_hz: the average; variable rates are common.
        recorded_at: ISO 8601.
        audio_tracks, video_tracks: how many there are, cover pictures not counted. One of each is read.
    """

    container: str
    duration_seconds: float | None = None
    seekable: bool = False
    has_audio: bool = False
    has_video: bool = False
    audio_codec: str | None = None
    video_codec: str | None = None
    width: int | None = None
    height: int | None = None
    rotation_degrees: int = 0
    frame_rate_hz: float | None = None
    recorded_at: str | None = None
    audio_tracks: int = 0
    video_tracks: int = 0


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """Which stretch of a file to read, and how densely.

    Attributes:
        start_seconds, end_seconds: the span; None: to the true end.
        frame_rate_hz: pictures are taken at the times k / frame_rate_hz.
        warm_up_seconds: how much earlier the sound begins for the voice detector alone.
        face_every: faces are looked for in the pictures whose place on the grid is a multiple of this.
        crop_pixels, crop_colour: side of the face crops; RGB or grey.
        frame_pixels: side of the square cut out of each whole picture; None: whole pictures are not sent.
        frame_short_pixels: to what a picture's short side is brought before that; None: it is squeezed into the square.

    Raises:
        ValueError: a value makes no sense.
    """

    start_seconds: float = 0.0
    end_seconds: float | None = None
    frame_rate_hz: float = 5.0
    warm_up_seconds: float = 5.0
    face_every: int = 1
    crop_pixels: int = CROP_SIZE
    crop_colour: bool = False
    frame_pixels: int | None = None
    frame_short_pixels: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds < math.inf:
            raise ValueError(f"a span must start at 0 or later, got {self.start_seconds}")
        if self.end_seconds is not None and not self.start_seconds < self.end_seconds < math.inf:
            raise ValueError(f"a span must end after its start at {self.start_seconds}, got {self.end_seconds}")
        if not 0 < self.frame_rate_hz <= 1000 or not 0 <= self.warm_up_seconds <= 600:
            raise ValueError(f"not a rate or a warm-up: {self.frame_rate_hz} Hz, {self.warm_up_seconds} s")
        sides = (self.crop_pixels, self.frame_pixels or 16, self.frame_short_pixels or 16)
        if self.face_every < 1 or not all(16 <= side <= 2048 for side in sides):
            raise ValueError(f"not sizes of crops and frames: {sides} pixels, faces in every {self.face_every}")

    @property
    def search_every(self) -> int:
        """Pictures whose place on the grid is a multiple of this are searched for faces anew."""
        return self.face_every * max(1, round(SEARCH_SECONDS * self.frame_rate_hz / self.face_every))

    def fits(self, picture: "Picture") -> bool:
        """Whether a picture has the shapes that were asked for."""
        crop_shape = (self.crop_pixels, self.crop_pixels) + (3,) * self.crop_colour
        frame_shape = None if self.frame_pixels is None else (self.frame_pixels, self.frame_pixels, 3)
        return (picture.crop is None or picture.crop.shape == crop_shape) and (
            picture.frame is None or picture.frame.shape == frame_shape
        )


@dataclass(frozen=True)
class Sound:
    """A stretch of sound, mono, about a second long. Stretches follow one another without gap or overlap.

    Attributes:
        start_sample: sample n lies at n / 16000 s.
        samples: (n,) float32 within -1..1; zeros where the stream has a gap.
    """

    start_sample: int
    samples: FloatArray

    def __post_init__(self) -> None:
        _require(self.samples.ndim == 1 and self.samples.dtype == np.float32, "sound is not (n,) float32")


@dataclass(frozen=True)
class Voice:
    """How likely there is speech.

    Attributes:
        first_chunk: chunk k covers the samples [512 k, 512 (k + 1)), wherever the span begins.
        probabilities: (m,) float32, for the chunks `first_chunk`, `first_chunk` + 1, ...
    """

    first_chunk: int
    probabilities: FloatArray

    def __post_init__(self) -> None:
        _require(self.probabilities.ndim == 1 and self.probabilities.dtype == np.float32, "voice is not (m,) float32")


@dataclass(frozen=True)
class Picture:
    """What is on screen at one point of the grid.

    Attributes:
        grid_index, t_seconds: the point, and its time grid_index / frame_rate_hz.
        source_seconds: when the frame that is on screen at that time came on.
        state: `face`, `no_face`, or `unjudged` where nobody looked for one.
        face_count: how many faces are visible; what follows describes the largest.
        crop: (pixels, pixels) uint8 grey or (pixels, pixels, 3) RGB as requested, aligned; None without a face.
        box: left, top, width and height as shares of the upright picture.
        confidence: the detector's, 0..1.
        landmarks: x and y of each of `models.faces.LANDMARKS`, ten numbers, in pixels of the picture looked at.
        frame: (pixels, pixels, 3) uint8 RGB, the whole picture as requested; None if it is not asked for, or is that of
            the picture before with the same `source_seconds`.
    """

    grid_index: int
    t_seconds: float
    source_seconds: float
    state: str
    face_count: int = 0
    crop: ByteArray | None = None
    box: tuple[float, float, float, float] | None = None
    confidence: float | None = None
    landmarks: tuple[float, ...] | None = None
    frame: ByteArray | None = None

    def __post_init__(self) -> None:
        _require(self.state in ("face", "no_face", UNJUDGED), f"no such state of a picture: {self.state}")
        for image in (self.crop, self.frame):
            _require(image is None or image.dtype == np.uint8, "a crop or frame is not uint8")
        if self.box is not None:
            _require(len(self.box) == 4, "a box is not four numbers")
            object.__setattr__(self, "box", tuple(self.box))  # JSON knows lists only
        if self.landmarks is not None:
            _require(len(self.landmarks) == 10, "landmarks are not ten numbers")
            object.__setattr__(self, "landmarks", tuple(self.landmarks))


@dataclass(frozen=True)
class Unreadable:
    """A stretch of one stream, `audio` or `video`, that could not be decoded. It comes before what lies after it."""

    stream: str
    start_seconds: float
    end_seconds: float

    def __post_init__(self) -> None:
        _require(self.stream in ("audio", "video"), f"no such stream: {self.stream}")


@dataclass(frozen=True)
class Progress:
    """How far the reading has come.

    Attributes:
        t_seconds: what has been handed over.
        reached_seconds: what has been looked at to get there, from an earlier key frame on.
    """

    t_seconds: float
    reached_seconds: float = 0.0


@dataclass(frozen=True)
class End:
    """The span has been read.

    Attributes:
        audio_end_seconds, video_end_seconds: how far each stream was followed; None if it had nothing there.
        duration_seconds: the file's true length; None if the reading stopped before the file's end.
        truncated: the container's own index promised clearly more than there was.
    """

    audio_end_seconds: float | None
    video_end_seconds: float | None
    duration_seconds: float | None
    truncated: bool = False


@dataclass(frozen=True)
class Failure:
    """The file cannot be read: a code of `db.errors`, and why in a few words."""

    code: str
    reason: str


@dataclass(frozen=True)
class Job:
    """What the child is to do with the descriptor that comes with this: `probe`, or `read` as `request` says."""

    task: str
    request: ReadRequest | None = None


Event = Sound | Voice | Picture | Unreadable | Progress | End
Message = Event | Probe | Failure
