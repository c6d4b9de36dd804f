"""Reading objects: `python -m tests.benchmarks.objects`. Prints how three things compare.

    throughput      of one stream, to another process as the decoding child is one, to a plain download (one GET) of
                    the same object: from moto's server; from a proxy; from one that answers after 20 ms, and moreover
                    gives each connection 500 or 60 MB/s, as a distant store does
    demuxing        every packet of a film in such a process, from the store and from a file
    bytes           fetched to probe a long film and read a span in its middle, to the span's own bytes

moto's server reads a whole object for each part of it that is asked for, which costs whoever asks for parts; the proxy
holds the object itself. Where nothing but the processors is in the way, parts and a second process cost a stream more
than one download. Both ways take turns, so that whatever else the machine does meets both; printed are medians.
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av

from db.identity import ObjectName, Source
from tests.benchmarks.clips import clip
from tests.benchmarks.processes import ROOT
from tests.clips import board_reader
from tests.faulty_store import FaultyStore
from tests.servers import ObjectStore
from worker import objects
from worker.protocol import End, ReadRequest
from worker.reader import _handed_over
from worker.source import opened

LATENCY_SECONDS = 0.02
PROXIES = {  # what is held, seconds before each answer, and bytes per second of each connection
    "proxy": (0.0, None),
    "proxy, 20 ms": (LATENCY_SECONDS, None),
    "proxy, 20 ms, 500 MB/s": (LATENCY_SECONDS, 500e6),
    "proxy, 20 ms, 60 MB/s": (LATENCY_SECONDS, 60e6),
}
NAME = ObjectName("archive", "large")
CHILD = """
import sys
from worker.decoder_open import BUFFER_BYTES, media_file, open_container
print("ready", flush=True)
sys.stdin.read(1)
file = media_file(int(sys.argv[1]))
if sys.argv[2] == "bytes":
    while file.read(BUFFER_BYTES):
        pass
else:
    with open_container(file) as film:
        for _ in film.demux():
            pass
"""


def stream_seconds(source: Source, what: str = "bytes") -> float:
    """What it takes a child, once that has started, to read a source's `bytes` or `packets`, from end to end."""
    with opened(source) as file, _handed_over(file, source.uri) as handed:
        command = [sys.executable, "-c", CHILD, str(handed.descriptor), what]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, cwd=ROOT, pass_fds=[handed.descriptor], **pipes) as child:
            child.stdout.readline()
            started = time.perf_counter()
            child.communicate(b"\n")
            taken = time.perf_counter() - started
        assert child.returncode == 0
        handed.check()
        return taken


def download_seconds(source: Source) -> float:
    """What it takes to download an object, and keep nothing."""
    started = time.perf_counter()
    body = objects.client("s3").get_object(Bucket=NAME.bucket, Key=NAME.key)["Body"]
    while body.read(1 << 20):
        pass
    return time.perf_counter() - started


def compared(where: str, size_bytes: int, repeats: int, plainly: Callable[[], float], ours: Callable[[], float]) -> str:
    """A line: two ways to read as many bytes, and how they compare."""
    runs = [(plainly(), ours()) for _ in range(repeats)]
    plain, our = (statistics.median(times) for times in zip(*runs, strict=True))
    ratio = statistics.median(plain / our for plain, our in runs)
    megabytes = size_bytes / 1e6
    return f"{where:24} | {megabytes / plain:7.0f} MB/s | {megabytes / our:7.0f} MB/s | {ratio:.2f}"


def throughput(where: str, source: Source, repeats: int) -> str:
    """A line: a plain download and a stream."""
    ways = partial(download_seconds, source), partial(stream_seconds, source)
    return compared(where, source.size_bytes, repeats, *ways)


def _proxy(upstream: str, path: Path, latency_seconds: float, bytes_per_second: float | None, pipe: Any) -> None:
    """A process: the proxy, which holds a file as the object, until the pipe is closed."""
    with FaultyStore(upstream) as proxy:
        proxy.latency_seconds, proxy.bytes_per_second = latency_seconds, bytes_per_second
        pipe.send((proxy.url, proxy.hold(f"/{NAME.bucket}/{NAME.key}", path.read_bytes())))
        with contextlib.suppress(EOFError):
            pipe.recv()


@contextlib.contextmanager
def distant(
    server: ObjectStore, path: Path, latency_seconds: float, bytes_per_second: float | None
) -> Iterator[Source]:
    """A file as an object behind the proxy, which the environment leads to."""
    ours, theirs = multiprocessing.Pipe()
    settings = (server.url, path, latency_seconds, bytes_per_second, theirs)
    process = multiprocessing.get_context("spawn").Process(target=_proxy, args=settings)
    process.start()
    theirs.close()
    url, etag = ours.recv()
    _lead_to(url)
    yield Source.of_object(NAME, etag, path.stat().st_size, 0.0)
    ours.close()
    process.join()


def _lead_to(url: str) -> None:
    os.environ["AWS_ENDPOINT_URL_S3"] = url
    objects.client.cache_clear()


def own_bytes(path: Path, start_seconds: float, end_seconds: float) -> int:
    """Of the packets of a span."""
    with av.open(str(path)) as film:
        return sum(p.size for p in film.demux() if p.size and start_seconds <= float(p.pts * p.time_base) < end_seconds)


def span_bytes(server: ObjectStore, path: Path, start_seconds: float, end_seconds: float) -> tuple[int, int]:
    """What is fetched to probe a film, and to read a span of it; both as a worker of the fleet does."""
    with FaultyStore(server.url) as proxy, board_reader() as reader:
        proxy.latency_seconds = LATENCY_SECONDS
        content = path.read_bytes()
        source = Source.of_object(NAME, proxy.hold(f"/{NAME.bucket}/{NAME.key}", content), len(content), 0.0)
        _lead_to(proxy.url)
        with opened(source) as file:
            reader.probe(file, source.uri)
        probed = proxy.body_bytes
        with opened(source) as file:
            request = ReadRequest(start_seconds=start_seconds, end_seconds=end_seconds)
            assert any(isinstance(event, End) for event in reader.read(file, source.uri, request))
        return probed, proxy.body_bytes - probed


def main() -> None:
    """Print all ratios."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.objects")
    parser.add_argument("--megabytes", type=int, default=256, help="of the object that is read from end to end")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--film-seconds", type=int, default=7200)
    parser.add_argument("--span-seconds", type=int, default=600)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ObjectStore(Path(folder)) as server:
        os.environ.update(server.environment)
        server.client("s3").create_bucket(Bucket=NAME.bucket)
        large = Path(folder) / "large"
        large.write_bytes(os.urandom(options.megabytes << 20))
        print(f"{options.megabytes} MB from      |    download |      stream | ratio")
        server.client("s3").put_object(Bucket=NAME.bucket, Key=NAME.key, Body=large.read_bytes())
        print(throughput("moto's server", objects.described(NAME), options.repeats), flush=True)
        for where, settings in PROXIES.items():
            with distant(server, large, *settings) as source:
                print(throughput(where, source, options.repeats), flush=True)
        path = clip(360, options.film_seconds)
        print(f"{path.stat().st_size / 1e6:.0f} MB, demuxed    |      a file |   the proxy | ratio")
        for where in ("proxy", "proxy, 20 ms"):
            with distant(server, path, *PROXIES[where]) as source:
                file = Source.of(path, path.stat())
                ways = partial(stream_seconds, file, "packets"), partial(stream_seconds, source, "packets")
                print(compared(where, source.size_bytes, options.repeats, *ways), flush=True)
        start = options.film_seconds / 2
        end = start + options.span_seconds
        probed, fetched = span_bytes(server, path, start, end)
        own, film = own_bytes(path, start, end), path.stat().st_size
        print(f"film: {film / 1e6:.1f} MB, {options.film_seconds} s; fetched to probe it: {probed / 1e6:.2f} MB")
        print(f"span: {own / 1e6:.2f} MB, {options.span_seconds} s; fetched with the index: {fetched / 1e6:.2f} MB")
        print(f"ratio {fetched / own:.3f}; without what probing fetched {(fetched - probed) / own:.3f}")


if __name__ == "__main__":
    main()
