"""Reading objects: `python -m tests.benchmarks.objects`. Prints how two things compare.

    throughput      of one stream, to another process as the decoding child is one, to a plain download (one GET) of
                    the same object: from moto's server, from a proxy that answers after 20 ms, and from one that
                    moreover gives each connection 60 MB/s, as a distant store does
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
from collections.abc import Iterator
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
from worker.source import opened

LATENCY_SECONDS = 0.02
CONNECTION_BYTES_PER_SECOND = 60e6
NAME = ObjectName("archive", "large")
DRAIN = """
import sys
from worker.decoder_open import BUFFER_BYTES, LentFile
print("ready", flush=True)
sys.stdin.read(1)
file = LentFile(int(sys.argv[1]))
while file.read(BUFFER_BYTES):
    pass
"""


def stream_seconds(source: Source) -> float:
    """What it takes to read an object in a child, from end to end, once that has started."""
    with opened(source) as file, file.lent() as loan:
        command = [sys.executable, "-c", DRAIN, str(loan.descriptor)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, cwd=ROOT, pass_fds=[loan.descriptor], **pipes) as child:
            child.stdout.readline()
            started = time.perf_counter()
            child.communicate(b"\n")
            taken = time.perf_counter() - started
        assert child.returncode == 0
        loan.check()
        return taken


def download_seconds(source: Source) -> float:
    """What it takes to download an object, and keep nothing."""
    started = time.perf_counter()
    body = objects.client("s3").get_object(Bucket=NAME.bucket, Key=NAME.key)["Body"]
    while body.read(1 << 20):
        pass
    return time.perf_counter() - started


def throughput(where: str, source: Source, repeats: int) -> str:
    """A line: both ways, and how they compare."""
    runs = [(download_seconds(source), stream_seconds(source)) for _ in range(repeats)]
    plain, ours = (statistics.median(times) for times in zip(*runs, strict=True))
    ratio = statistics.median(plain / ours for plain, ours in runs)
    megabytes = source.size_bytes / 1e6
    return f"{where:24} | {megabytes / plain:7.0f} MB/s | {megabytes / ours:7.0f} MB/s | {ratio:.2f}"


def _proxy(upstream: str, size_bytes: int, bytes_per_second: float | None, pipe: Any) -> None:
    """A process: the proxy, which holds the object, until the pipe is closed."""
    with FaultyStore(upstream) as proxy:
        proxy.latency_seconds, proxy.bytes_per_second = LATENCY_SECONDS, bytes_per_second
        pipe.send((proxy.url, proxy.hold(f"/{NAME.bucket}/{NAME.key}", bytes(size_bytes))))
        with contextlib.suppress(EOFError):
            pipe.recv()


@contextlib.contextmanager
def distant(server: ObjectStore, size_bytes: int, bytes_per_second: float | None) -> Iterator[Source]:
    """An object behind the proxy, which the environment leads to."""
    ours, theirs = multiprocessing.Pipe()
    settings = (server.url, size_bytes, bytes_per_second, theirs)
    process = multiprocessing.get_context("spawn").Process(target=_proxy, args=settings)
    process.start()
    theirs.close()
    url, etag = ours.recv()
    _lead_to(url)
    yield Source.of_object(NAME, etag, size_bytes, 0.0)
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
    """Print both ratios."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.objects")
    parser.add_argument("--megabytes", type=int, default=256, help="of the object that is read from end to end")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--film-seconds", type=int, default=7200)
    parser.add_argument("--span-seconds", type=int, default=600)
    options = parser.parse_args()
    size_bytes = options.megabytes << 20
    with tempfile.TemporaryDirectory() as folder, ObjectStore(Path(folder)) as server:
        os.environ.update(server.environment)
        server.client("s3").create_bucket(Bucket=NAME.bucket)
        print(f"{options.megabytes} MB from      |    download |      stream | ratio")
        server.client("s3").put_object(Bucket=NAME.bucket, Key=NAME.key, Body=bytes(size_bytes))
        print(throughput("moto's server", objects.described(NAME), options.repeats), flush=True)
        for where, rate in (("proxy, 20 ms", None), ("proxy, 20 ms, 60 MB/s", CONNECTION_BYTES_PER_SECOND)):
            with distant(server, size_bytes, rate) as source:
                print(throughput(where, source, options.repeats), flush=True)
        path = clip(360, options.film_seconds)
        start = options.film_seconds / 2
        end = start + options.span_seconds
        probed, fetched = span_bytes(server, path, start, end)
        own, film = own_bytes(path, start, end), path.stat().st_size
        print(f"film: {film / 1e6:.1f} MB, {options.film_seconds} s; fetched to probe it: {probed / 1e6:.2f} MB")
        print(f"span: {own / 1e6:.2f} MB, {options.span_seconds} s; fetched with the index: {fetched / 1e6:.2f} MB")
        print(f"ratio {fetched / own:.3f}; without what probing fetched {(fetched - probed) / own:.3f}")


if __name__ == "__main__":
    main()
