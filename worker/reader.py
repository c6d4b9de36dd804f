"""Reads sound and pictures of one file at a time, through a child process that does the decoding.

Hostile or broken files crash, hang and bloat decoders; here they only cost the child, which is replaced. The child is
handed an open descriptor, or a socket over which it is lent an object's bytes, never a path or an address, and an
environment without credentials. See `worker.decoder` for its side and `worker.protocol` for what is said. The process
that runs models opens no media itself.
"""

import os
import queue
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from db import errors
from worker.channel import Channel, ChannelClosed, socket_pair
from worker.lending import Lender, Loan
from worker.protocol import End, Event, Failure, Job, Message, Picture, Probe, ProtocolError, ReadRequest
from worker.ring import Ring, shared_memory

SILENCE_SECONDS = 60.0  # without a message, after which a child counts as hung
MEMORY_BYTES = 4 << 30  # that a child may allocate
THREADS = 2  # that decode pictures in one child
RING_BYTES = 1 << 22  # of memory shared with a child: a minute of sound, 27 pictures of 224; more falls out of caches
LISTENER = "models.voice:VoiceDetector"
WATCHER = "worker.decoder_faces:FaceWatcher"

_PASSED_ON = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR")  # of the environment; credentials are not
_SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Large blocks go back to the system when they are freed (glibc): an mp4's index takes kilobytes for each second of
# video while the file is open, and two and a half times as much would be kept. Smaller blocks, pictures', are kept.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 21), "MALLOC_TRIM_THRESHOLD_": str(1 << 22)}
_LAST_WORDS_BYTES = 600

_BY_CODE = {
    cls.code: cls
    for family in (errors.InputError, errors.DecoderError, errors.EquipmentError)
    for cls in family.__subclasses__()
}


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return kept | _SINGLE_THREADED | _ALLOCATOR | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class _Child:
    """One decoding process, the socket to it and the memory that is shared with it.

    Args:
        arguments: of `worker.decoder`, without the socket and the memory.
        silence_seconds: how long to wait for a message.
        ring_bytes: of shared memory.
    """

    def __init__(self, arguments: list[str], silence_seconds: float, ring_bytes: int) -> None:
        ours, theirs = socket_pair()
        ours.settimeout(silence_seconds)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        passed_on, memory = {"--socket": theirs.fileno()}, shared_memory(ring_bytes)
        with theirs, ExitStack() as started:
            if memory is not None:
                started.callback(os.close, memory)
                passed_on["--ring"] = memory
            self.channel = Channel(ours, None if memory is None else Ring(memory))
            named = [part for option, descriptor in passed_on.items() for part in (option, str(descriptor))]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.decoder", *named, *arguments],
                pass_fds=list(passed_on.values()),
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def kill(self) -> None:
        """End the process at once and forget it."""
        self.channel.close()
        self._process.kill()
        self._process.wait()
        self._stderr.close()

    def end_of(self) -> str:
        """How a process that has hung up ended, in words."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it hung up"
        if code < 0:
            return f"it was ended by {signal.Signals(-code).name}"
        return f"it exited with status {code}{self._last_words()}"

    def _last_words(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _LAST_WORDS_BYTES))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1].strip()})" if lines else ""


class Reader:
    """Reads one file at a time; a context manager that owns one child process, kept for many files.

    Args:
        silence_seconds: how long the child may say nothing while it is waited for.
        memory_bytes: that the child may allocate.
        threads: that decode pictures.
        decoder: cpu, or nvdec for the decoder of an NVIDIA GPU.
        ring_bytes: of shared memory, through which the child hands sound and pictures over.
        listener, watcher: classes that the child hears speech and sees faces with, as `module:Class`: see
            `worker.decoder_sound.Listener` and `worker.decoder_video.Watcher`.
    """

    def __init__(
        self,
        *,
        silence_seconds: float = SILENCE_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        threads: int = THREADS,
        decoder: str = "cpu",
        ring_bytes: int = RING_BYTES,
        listener: str = LISTENER,
        watcher: str = WATCHER,
    ) -> None:
        self._silence_seconds, self._ring_bytes = silence_seconds, ring_bytes
        options = {
            "memory-bytes": memory_bytes,
            "threads": threads,
            "decoder": decoder,
            "listener": listener,
            "watcher": watcher,
        }
        self._arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self._child: _Child | None = None
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
            self._child = _Child(self._arguments, self._silence_seconds, self._ring_bytes)
        child = self._child
        try:
            child.channel.send_job(job, handed.descriptor)
            while True:
                message = child.channel.receive()
                yield message
                if isinstance(message, Probe | End | Failure):
                    return
        except ChannelClosed as error:
            raise errors.DecoderCrashed(f"{name}: the decoder died: {child.end_of()}") from error
        except ProtocolError as error:
            raise errors.DecoderCrashed(f"{name}: the decoder talked nonsense: {error}") from error
        except TimeoutError as error:
            seconds = self._silence_seconds
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
