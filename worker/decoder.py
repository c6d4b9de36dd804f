"""The child process that decodes: `python -m worker.decoder`, started by `worker.reader`.

It loads all that it will need, gives up what `worker.sandbox` says, and only then does jobs: it is handed an open
descriptor for each, over the socket that it inherits: of a file, or of a socket over which an object's bytes are lent.
It sends messages back, their arrays through shared memory that it inherits as well; it never sees a path, an address or
a credential. It ends when the parent hangs up. Imports no torch.
"""

import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import av
from av.audio.frame import AudioFrame
from av.codec.hwaccel import HWAccel
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame

from models.errors import ModelError
from worker import sandbox
from worker.channel import Channel, ChannelClosed
from worker.decoder_media import Media
from worker.decoder_open import MediaError, SourceLost, be_quiet, media_file, nvdec
from worker.decoder_probe import probe
from worker.decoder_skip import Skipped, Skipper
from worker.decoder_sound import Listener, SoundTrack
from worker.decoder_time import FrameTimes, Ticks
from worker.decoder_video import Converter, PictureTrack, Watcher
from worker.limits import Limits
from worker.protocol import End, Event, Failure, Job, Progress, ReadRequest
from worker.ring import Ring

SLOTTED_FORMATS = {"avi"}  # whose index counts frames instead of saying when they are shown
PROGRESS_SECONDS = 0.5  # of the clock on the wall
MAX_FRAME_SECONDS = 3600.0  # that a frame is on screen by its own account; one that says more is not believed
MIN_MISSING_SECONDS, MIN_MISSING_SHARE = 1.0, 0.01  # of what the index promised, to call a file truncated


class Tools:
    """What is loaded once and used for many files: the detectors, named as `module:Class`, and the GPU's decoder."""

    def __init__(self, listener: str, watcher: str, thread_count: int, decoder: str = "cpu") -> None:
        self.thread_count = thread_count
        self._make: dict[str, Callable[[], Any]] = {
            "listener": lambda: _load(listener)(),
            "watcher": lambda: _load(watcher)(),
            "hardware": nvdec if decoder == "nvdec" else lambda: None,
        }
        self._made: dict[str, Any] = {}
        self._errors: dict[str, Exception] = {}

    def load(self) -> None:
        """Load everything; what cannot be loaded is raised by who asks for it."""
        for name in self._make:
            try:
                self._get(name)
            except Exception as error:  # noqa: BLE001 - whatever it is, each job that needs it fails by it
                self._errors[name] = error

    def _get(self, name: str) -> Any:
        if name in self._errors:
            raise self._errors[name]
        if name not in self._made:
            self._made[name] = self._make[name]()
        return self._made[name]

    @property
    def hardware(self) -> HWAccel | None:
        """What decodes pictures; None: the processor.

        Raises:
            MediaError: it cannot be used.
        """
        return self._get("hardware")  # type: ignore[no-any-return]

    @property
    def listener(self) -> Listener:
        """Hears speech."""
        return self._get("listener")  # type: ignore[no-any-return]

    @property
    def watcher(self) -> Watcher:
        """Sees faces."""
        return self._get("watcher")  # type: ignore[no-any-return]


def load_all_of(package: ModuleType) -> None:
    """Import what a package would import when it needs it: later no file can be opened."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith(("__main__", "datasets")):
            importlib.import_module(module.name)


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


class StreamReader:
    """Decodes one stream's packets into its track's events."""

    def __init__(self, stream: Stream, media: Media, track: SoundTrack | PictureTrack) -> None:
        self.track, self.n_packets, self.n_torn, self.n_frames = track, 0, 0, 0
        self._stream, self._media = stream, media
        self._times = FrameTimes(slotted=stream.type == "video" and media.format in SLOTTED_FORMATS)
        self._ticks, self._frame_seconds = Ticks(stream), _frame_seconds(stream)
        self._end_seconds: float | None = None
        self._skipper: Skipper | None = None
        if isinstance(track, PictureTrack) and media.format not in SLOTTED_FORMATS:
            self._skipper = Skipper(stream, track)

    def take(self, packet: "Packet[Stream]") -> Iterator[Event]:
        """Decode one packet; the empty packet at the end ends the track."""
        t_seconds = self._media.time(packet)
        if packet.size:
            self._note(packet, t_seconds)
        for frame in self._frames(packet, t_seconds):
            yield from self._show(frame)
            if self.track.done:
                return
        if not packet.size:
            yield from self.track.finish(self._end_seconds)

    def _frames(self, packet: "Packet[Stream]", t_seconds: float | None) -> Iterable[Any]:
        """What comes out of the decoder, with what it left out among it."""
        if self._skipper is None:
            return self._decode(packet, t_seconds)
        if packet.size and self._skipper.leaves_out(packet, t_seconds):
            return []
        return self._skipper.complete(self._decode(packet, t_seconds), ended=not packet.size)

    def _decode(self, packet: "Packet[Stream]", t_seconds: float | None) -> list[Any]:
        try:
            return packet.decode()
        except av.error.EOFError:
            return []
        except MemoryError:
            raise
        except av.error.FFmpegError:
            self._times.lose()
            self.track.lose(t_seconds)
            return []

    def _note(self, packet: "Packet[Stream]", t_seconds: float | None) -> None:
        self.n_packets += 1
        self._times.note(packet)
        if packet.is_corrupt:
            self.n_torn += 1
            self.track.lose(t_seconds, t_seconds)
        if t_seconds is not None:
            length = self._believed(self._ticks.seconds(packet.duration or 0))
            self._end_seconds = max(self._end_seconds or 0.0, t_seconds + self._media.within(t_seconds, length))

    def _show(self, frame: Any) -> Iterator[Event]:
        stamp, length = self._times.of(frame), self._length(frame)
        if stamp is None:
            t_seconds = self.track.expect()
        else:
            t_seconds = self._media.timeline.place(self._stream.index, self._ticks.seconds(stamp), length)
        self._media.require_within(t_seconds)
        length = self._media.within(t_seconds, length)
        self.n_frames += 1
        try:
            if isinstance(frame, AudioFrame) and isinstance(self.track, SoundTrack):
                yield from self.track.add(frame, t_seconds)
            elif isinstance(frame, VideoFrame | Skipped) and isinstance(self.track, PictureTrack):
                yield from self.track.add(frame, t_seconds, length)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            self.track.lose(t_seconds)

    def _length(self, frame: Any) -> float:
        if isinstance(frame, AudioFrame):
            return frame.samples / max(1, frame.sample_rate)
        return self._believed(self._ticks.seconds(frame.duration or 0))

    def _believed(self, length: float) -> float:
        return length if 0 < length <= MAX_FRAME_SECONDS else self._frame_seconds


def _frame_seconds(stream: Stream) -> float:
    """How long a frame lasts that does not say so."""
    if stream.type != "video":
        return 0.0
    return min(1.0, float(1 / stream.average_rate)) if stream.average_rate else 0.04


class SpanReader:
    """Reads one span of one file, in one sequential pass.

    Args:
        media: the open file.
        request: the span.
        tools: the detectors.
    """

    def __init__(self, media: Media, request: ReadRequest, tools: Tools) -> None:
        self._media, self._request, self._tools = media, request, tools
        look_seconds = request.start_seconds % (request.search_every / request.frame_rate_hz)  # as `PictureTrack` does
        media.go_to(request.start_seconds - look_seconds, request.warm_up_seconds)
        self._readers = {stream.index: StreamReader(stream, media, self._track(stream)) for stream in media.streams.all}
        self._absent = {
            stream.index
            for stream in media.streams.all
            if media.misses(stream, request.start_seconds, request.end_seconds)
        }
        self._told_at = time.monotonic()
        self._reached_seconds = 0.0

    def _track(self, stream: Stream) -> SoundTrack | PictureTrack:
        start, end = self._request.start_seconds, self._request.end_seconds
        if stream.type == "audio":
            return SoundTrack(start, end, self._request.warm_up_seconds, self._tools.listener)
        converter = Converter(stream.sample_aspect_ratio)  # type: ignore[attr-defined]
        return PictureTrack(self._request, self._tools.watcher, converter)

    def events(self) -> Iterator[Event]:
        """All events of the span, with `End` as the last.

        Raises:
            MediaError: from the file's start on, nothing at all could be decoded; or it is longer than is allowed.
        """
        stopped = False
        for packet in self._media.packets():
            if time.monotonic() - self._told_at > PROGRESS_SECONDS:
                yield self._progress()
            if packet is None:
                for reader in self._readers.values():
                    reader.track.lose(None)
                continue
            self._reached_seconds = max(self._reached_seconds, self._media.time(packet) or 0.0)
            reader = self._readers[packet.stream.index]
            if not reader.track.done:
                yield from reader.take(packet)
                stopped = all(r.track.done or i in self._absent for i, r in self._readers.items())
            if stopped:
                break
        self._require_something()
        yield self._end(whole=not stopped)

    def _progress(self) -> Progress:
        self._told_at = time.monotonic()
        t_seconds = max(reader.track.t_seconds for reader in self._readers.values())
        return Progress(t_seconds, max(t_seconds, self._reached_seconds))

    def _require_something(self) -> None:
        if self._request.start_seconds > 0 or any(reader.n_frames for reader in self._readers.values()):
            return
        if any(reader.n_packets > reader.n_torn for reader in self._readers.values()):
            raise MediaError("undecodable", "not one of its frames or samples can be decoded")
        if self._media.duration_seconds:
            raise MediaError("truncated", "it breaks off before its first frame")
        raise MediaError("no_streams", "its streams are empty")

    def _end(self, *, whole: bool) -> End:
        ends = {"audio": None, "video": None} | {
            "audio" if isinstance(r.track, SoundTrack) else "video": r.track.end_seconds for r in self._readers.values()
        }
        duration = None
        if whole:  # a span that was planned beyond the file's end finds nothing: the file ends before it
            duration = max((end for end in ends.values() if end is not None), default=None)
            duration = self._media.end_of_packets() if duration is None else duration
        promised = self._media.promised_seconds
        missing = 0.0 if duration is None or promised is None else promised - duration
        truncated = missing > max(MIN_MISSING_SECONDS, MIN_MISSING_SHARE * (promised or 0.0))
        return End(ends["audio"], ends["video"], duration, truncated)


def _run(job: Job, descriptor: int, tools: Tools, limits: Limits, channel: Channel) -> None:
    file = media_file(descriptor)
    if job.request is None:
        channel.send(probe(file, limits))
        return
    media = Media(file, tools.thread_count, tools.hardware, limits)
    with contextlib.closing(media):
        for event in SpanReader(media, job.request, tools).events():
            channel.send(event)


def _failure(error: Exception) -> Failure:
    if isinstance(error, MediaError):
        return Failure(error.code, str(error))
    if isinstance(error, ModelError):
        return Failure("weights_missing", str(error))
    if isinstance(error, SourceLost):
        return Failure("source_unreachable", "its bytes came no more")
    if isinstance(error, MemoryError):
        return Failure("out_of_memory", "decoding it needs more memory than is allowed")
    if isinstance(error, av.error.FFmpegError):
        return Failure("undecodable", error.strerror or str(error))
    if isinstance(error, OSError):
        return Failure("not_readable", error.strerror or str(error))
    return Failure("internal", "".join(traceback.format_exception(error))[-2000:])


def serve(channel: Channel, tools: Tools, limits: Limits) -> None:
    """Do jobs until the parent hangs up."""
    while True:
        job, descriptor = channel.receive_job()
        try:
            _run(job, descriptor, tools, limits, channel)
        except ChannelClosed:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a file sets off is reported, and the next one comes
            channel.send(_failure(error))
        finally:
            os.close(descriptor)


def main() -> None:
    """Serve the parent at the other end of the socket named on the command line."""
    parser = argparse.ArgumentParser(prog="worker.decoder")
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--ring", type=int)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--limits", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--listener", required=True)
    parser.add_argument("--watcher", required=True)
    parser.add_argument("--decoder", required=True)
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # they may go to the whole group; the parent decides, and kills
        signal.signal(number, signal.SIG_IGN)
    limits = Limits(**json.loads(options.limits))
    sandbox.begin(limits.memory_bytes, options.parent)
    be_quiet()
    load_all_of(av)
    tools = Tools(options.listener, options.watcher, options.threads, options.decoder)
    tools.load()
    ring = None if options.ring is None else Ring(options.ring)
    channel = Channel(socket.socket(fileno=options.socket), ring)
    sandbox.confine(limits, device=options.decoder == "nvdec")
    with contextlib.suppress(ChannelClosed):
        serve(channel, tools, limits)


if __name__ == "__main__":
    main()
