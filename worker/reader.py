"""Reads sound and pictures of one file at a time, through a child process that does the decoding.

Hostile or broken files crash, hang and bloat decoders; here they only cost the child, which is replaced. The child is
handed an open descriptor, or a socket over which it is lent an object's bytes, never a path or an address, and an
environment without credentials. See `worker.decoder` for its side, `worker.sandbox` for what it gives up, and
`worker.protocol` for what is said. The process that runs models opens no media itself.
"""

import os
import queue
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from db import errors
from worker.channel import ChannelClosed
from worker.child import Child
from worker.lending import Lender, Loan
from worker.limits import ADVANCE_SECONDS, DEFAULT_LIMITS, Limits
from worker.protocol import End, Event, Failure, Job, Message, Picture, Probe, ProtocolError, ReadRequest
from worker.vetting import Vetting

THREADS = 2  # that decode pictures in one child
RING_BYTES = 1 << 22  # of memory shared with a child: a minute of sound, 27 pictures of 224; more falls out of caches
LISTENER = "models.voice:VoiceDetector"
WATCHER = "worker.decoder_faces:FaceWatcher"


def _by_code(*families: type[errors.MoodreelError]) -> dict[str, type[errors.MoodreelError]]:
    """The classes below some that are raised themselves."""
    found = {}
    for kind in families:
        if "code" in vars(kind):
            found[kind.code] = kind
        found |= _by_code(*kind.__subclasses__())
    return found


_NOT_ON = f"without getting on by {ADVANCE_SECONDS:g} seconds of the recording"
# What a child may say of a file, or of what it would read it with.
_SAID = ("weights_missing", "device_unavailable", "source_unreachable", "not_readable", "out_of_memory")
_UNSAID = ("path_missing", "no_videos", "access_denied", "object_archived", "changed_while_reading")
_BY_CODE = {
    code: kind
    for code, kind in _by_code(errors.InputError, errors.DecoderError, errors.EquipmentError).items()
    if code in _SAID or (issubclass(kind, errors.InputError) and code not in _UNSAID)
}


class Reader:
    """Reads one file at a time; a context manager that owns one child process, kept for many files.

    Args:
        limits: on what a file may hold and what reading it may cost.
        threads: that decode pictures.
        decoder: cpu, or nvdec for the decoder of an NVIDIA GPU.
        ring_bytes: of shared memory, through which the child hands sound and pictures over.
        listener, watcher: classes that the child hears speech and sees faces with, as `module:Class`: see
            `worker.decoder_sound.Listener` and `worker.decoder_video.Watcher`.
    """

    def __init__(
        self,
        *,
        limits: Limits = DEFAULT_LIMITS,
        threads: int = THREADS,
        decoder: str = "cpu",
        ring_bytes: int = RING_BYTES,
        listener: str = LISTENER,
        watcher: str = WATCHER,
    ) -> None:
        self._limits, self._ring_bytes = limits, ring_bytes
        options = {
            "threads": threads,
            "decoder": decoder,
            "listener": listener,
            "watcher": watcher,
        }
        self._arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self._child: Child | None = None
        self._reading = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    @property
    def child_pid(self) -> int | None:
        """The process id of the child; None while there is none."""
        return None if self._child is None else self._child.pid

    def probe(self, file: int | Lender, name: str) -> Probe:
        """What a file says about itself.

        Args:
            file: its descriptor, or what lends its bytes; it stays the caller's.
            name: for messages.

        Raises:
            db.errors.InputError, db.errors.DecoderError, db.errors.SourceUnreachable: the file cannot be read.
        """
        for message in self._run(Job("probe"), file, name):
            if isinstance(message, Probe):
                return message
        raise errors.Internal(f"{name}: the decoder did not say what the file is")

    def read(self, file: int | Lender, name: str, request: ReadRequest) -> Generator[Event, None, None]:
        """Read one span in one pass; the last event is `End`. Leaving the iterator early ends the child.

        Args:
            file: its descriptor, or what lends its bytes; it stays the caller's.
            name: for messages.

        Raises:
            db.errors.InputError, db.errors.DecoderError, db.errors.SourceUnreachable: the file cannot be read (on).
            db.errors.WeightsMissing: a detector cannot be loaded.
        """
        for message in self._run(Job("read", request), file, name):
            if isinstance(message, Probe | Failure):
                raise errors.Internal(f"{name}: the decoder answered what nobody had asked")
            if isinstance(message, Picture) and not request.fits(message):
                raise errors.DecoderCrashed(f"{name}: the decoder talked nonsense: a picture of another size")
            yield message

    def _run(self, job: Job, file: int | Lender, name: str) -> Iterator[Message]:
        if self._reading:  # a job that nobody read to its end: what the child still says of it is not for this one
            self.close()
        self._reading, completed = True, False
        try:
            with _handed_over(file, name) as handed:
                for message in self._messages(job, handed, name):
                    completed = isinstance(message, Probe | End | Failure)
                    if completed:
                        handed.check()  # or what a failing store left out would pass for damage
                    if isinstance(message, Failure):
                        completed = message.code in _BY_CODE and message.code != errors.OutOfMemory.code
                        raise _BY_CODE.get(message.code, errors.Internal)(f"{name} cannot be read: {message.reason}")
                    yield message
        finally:
            self._reading = False
            if not completed:
                self.close()

    def _messages(self, job: Job, handed: "_OpenFile | Loan", name: str) -> Iterator[Message]:
        """What the child says, up to the message that ends the job."""
        if self._child is None:
            self._child = Child(self._arguments, self._limits, self._ring_bytes)
        child, vetting = self._child, Vetting(job.request, self._limits)
        child.begin_job()
        try:
            child.channel.send_job(job, handed.descriptor)
            while True:
                asked_at = time.monotonic()
                message = child.channel.receive()
                child.waited(time.monotonic() - asked_at)
                vetting.look_at(message)
                child.advanced(vetting.reached_seconds)
                yield message
                if isinstance(message, Probe | End | Failure):
                    return
        except ChannelClosed as error:
            if child.used_up_its_time:
                took = f"computed for {self._limits.cpu_seconds:g} seconds"
                raise errors.DecoderTimeout(f"{name}: the decoder {took} {_NOT_ON}") from error
            raise errors.DecoderCrashed(f"{name}: the decoder died: {child.end()}") from error
        except ProtocolError as error:
            raise errors.DecoderCrashed(f"{name}: the decoder talked nonsense: {error}") from error
        except TimeoutError as error:
            seconds = self._limits.silence_seconds
            if child.is_stalled:
                took = f"was waited for {self._limits.stall_seconds:g} seconds"
                raise errors.DecoderTimeout(f"{name}: the decoder {took} {_NOT_ON}") from error
            if handed.is_waiting:
                raise errors.SourceUnreachable(f"{name}: no bytes came for {seconds:g} seconds") from error
            raise errors.DecoderTimeout(f"{name}: the decoder said nothing for {seconds:g} seconds") from error


@contextmanager
def _handed_over(file: int | Lender, name: str) -> "Iterator[_OpenFile | Loan]":
    """What the child gets for one job."""
    if isinstance(file, Lender):
        with file.lent() as loan:
            yield loan
    else:
        yield _OpenFile(file, name)


class _OpenFile:
    """A descriptor of a file, and what the file was like at first, to notice one that is still being written.

    Raises:
        db.errors.EmptyFile, db.errors.NotReadable: there is nothing to read.
    """

    is_waiting = False

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor, self._name = descriptor, name
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise errors.NotReadable(f"{name} is a folder")
        if stat.S_ISREG(status.st_mode) and not status.st_size:
            raise errors.EmptyFile(f"{name} is zero bytes long")
        self._before = (status.st_size, status.st_mtime_ns)

    def check(self) -> None:
        """See whether the file is as it was.

        Raises:
            db.errors.ChangedWhileReading: it is not.
        """
        status = os.fstat(self.descriptor)
        if (status.st_size, status.st_mtime_ns) != self._before:
            raise errors.ChangedWhileReading(f"{self._name} was changed while it was being read")


class ReaderPool:
    """Readers, whose children are kept for the next file; a context manager that ends them all.

    Args:
        options: of each `Reader`.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._idle: queue.SimpleQueue[Reader] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while not self._idle.empty():
            self._idle.get().close()

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """A reader for one file."""
        try:
            reader = self._idle.get_nowait()
        except queue.Empty:
            reader = Reader(**self._options)
        try:
            yield reader
        finally:
            self._idle.put(reader)
