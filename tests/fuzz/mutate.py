"""What is done to a clip: bits flipped, pieces cut out, doubled and moved, and the boxes of its container edited."""

import struct
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Random = np.random.Generator

MAX_BYTES = 1_000_000
_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1)
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"moof", b"traf", b"mvex", b"dinf"}
_CONTAINERS |= {b"RIFF", b"LIST"}
_EBML_MASTERS = {0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0, 0xE1, 0x1F43B675, 0xA0, 0x1C53BB6B, 0xBB, 0xB7}


class Part:
    """A box, chunk or element of a container: where it begins, where what is in it begins, where it ends."""

    def __init__(self, start: int, content: int, end: int) -> None:
        self.start, self.content, self.end = start, content, end


def boxes(data: bytes, start: int = 0, end: int | None = None) -> list[Part]:
    """The boxes of an MP4 or MOV file (ISO 14496-12), with those in them."""
    found, end = [], len(data) if end is None else end
    while start + 8 <= end:
        size, kind, head = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        size = size or end - start
        if size < head or start + size > end:
            break
        found.append(Part(start, start + head, start + size))
        if kind in _CONTAINERS:
            found += boxes(data, start + head, start + size)
        start += size
    return found


def chunks(data: bytes, start: int = 0, end: int | None = None) -> list[Part]:
    """The chunks of a RIFF file (AVI, WAV), with those in them."""
    found, end = [], len(data) if end is None else end
    while start + 8 <= end:
        kind, size = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        if start + 8 + size > end:
            break
        found.append(Part(start, start + 8, start + 8 + size))
        if kind in _CONTAINERS:
            found += chunks(data, start + 12, start + 8 + size)
        start += 8 + size + size % 2
    return found


def elements(data: bytes, start: int = 0, end: int | None = None) -> list[Part]:
    """The elements of a Matroska or WebM file (RFC 8794), with those in them."""
    found, end = [], len(data) if end is None else end
    while start + 2 <= end:
        id_length = _vint_length(data[start])
        size_at = start + id_length
        if id_length > 4 or size_at >= end:
            break
        size_length = _vint_length(data[size_at])
        if size_length > 8 or size_at + size_length > end:
            break
        size = int.from_bytes(data[size_at : size_at + size_length], "big") & ((1 << 7 * size_length) - 1)
        content = size_at + size_length
        if size == (1 << 7 * size_length) - 1:
            size = end - content
        if content + size > end:
            break
        found.append(Part(start, content, content + size))
        if int.from_bytes(data[start:size_at], "big") in _EBML_MASTERS:
            found += elements(data, content, content + size)
        start = content + size
    return found


def _vint_length(first: int) -> int:
    return 9 - first.bit_length()


def parts(data: bytes) -> list[Part]:
    """Whatever boxes a file is made of; fixed packets of a transport stream, or pages of Ogg; none if it has none."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return boxes(data)
    if data[:4] in (b"RIFF", b"RIFX"):
        return chunks(data)
    if data[:4] == b"\x1aE\xdf\xa3":
        return elements(data)
    if data[:1] == b"G" and data[188:189] == b"G":
        return [Part(at, at + 4, at + 188) for at in range(0, len(data) - 187, 188)]
    if data[:4] == b"OggS":
        starts = [at for at in range(0, len(data) - 4) if data[at : at + 4] == b"OggS"]
        return [Part(at, min(at + 27, end), end) for at, end in zip(starts, [*starts[1:], len(data)], strict=True)]
    return []


def _place(random: Random, data: bytes) -> int:
    """Anywhere; in one of two cases near the start or the end, where headers and indexes are."""
    length = max(1, len(data))
    if random.random() < 0.5:
        near = min(length, int(random.choice((64, 512, 4096))))
        at = int(random.integers(near))
        return at if random.random() < 0.6 else length - 1 - at
    return int(random.integers(length))


def flip_bits(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Flip one bit, or some, or many."""
    for _turn in range(int(random.choice((1, 2, 8, 64)))):
        data[_place(random, data)] ^= 1 << int(random.integers(8))


def set_number(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Write a number at the edge of what fits, in one of the usual widths."""
    width, order = int(random.choice((1, 2, 4, 8))), random.choice(("big", "little"))
    value = int(random.choice(_EDGES)) & ((1 << 8 * width) - 1)
    at = _place(random, data)
    data[at : at + width] = value.to_bytes(width, order)


def fill(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Overwrite a stretch with noise, zeros or ones."""
    at, length = _place(random, data), int(random.choice((4, 64, 1024, 16_384)))
    length = min(length, len(data) - at)
    noise = random.integers(0, 256, length, np.uint8).tobytes()
    data[at : at + length] = (noise, bytes(length), b"\xff" * length)[int(random.integers(3))]


def truncate(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Cut the end off, or the start."""
    at = _place(random, data)
    if random.random() < 0.85:
        del data[at:]
    else:
        del data[:at]


def cut_out(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Leave a stretch out."""
    at = _place(random, data)
    del data[at : at + int(random.choice((1, 4, 188, 1000, 10_000)))]


def double(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Put a stretch in once more, somewhere."""
    at, length = _place(random, data), int(random.choice((1, 4, 188, 1000, 10_000)))
    to = _place(random, data)
    data[to:to] = data[at : at + length]


def splice(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    """Go on with another clip from somewhere on."""
    other = others[int(random.integers(len(others)))]
    data[_place(random, data) :] = other[_place(random, other) :]


def _pick(random: Random, data: bytearray) -> tuple[list[Part], Part] | None:
    """Any part, small ones and those of headers above all."""
    found = parts(bytes(data))
    if not found:
        return None
    some = [found[int(random.integers(len(found)))] for _ in range(2)]
    return found, min(some, key=lambda part: part.end - part.start)


def edit_size(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Let a part's head say another size."""
    if (picked := _pick(random, data)) is not None:
        part = picked[1]
        for _turn in range(int(random.choice((1, 1, 3)))):
            at = int(random.integers(part.start, max(part.start + 1, part.content)))
            data[at] = int(random.choice((0, 1, 7, 8, 0x7F, 0x80, 0xFF, int(random.integers(256)))))


def edit_kind(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Give a part the head of another, but for its size."""
    if (picked := _pick(random, data)) is not None:
        found, part = picked
        other = found[int(random.integers(len(found)))]
        data[part.start + 4 : part.start + 8] = data[other.start + 4 : other.start + 8]


def edit_content(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Write numbers at edges into a part: counts, offsets, times and sizes stand there."""
    if (picked := _pick(random, data)) is not None:
        part = picked[1]
        for _turn in range(int(random.choice((1, 2, 6)))):
            reach = max(1, min(part.end - part.content, 256) // 4)
            at = part.content + 4 * int(random.integers(reach))
            value = int(random.choice(_EDGES)) & 0xFFFFFFFF if random.random() < 0.7 else int(random.integers(1 << 16))
            data[at : at + 4] = struct.pack(">I", value)


def move_part(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Leave a part out, put it in twice, or change it with another."""
    if (picked := _pick(random, data)) is None:
        return
    found, part = picked
    other, what = found[int(random.integers(len(found)))], int(random.integers(3))
    content = bytes(data[part.start : part.end])
    if what == 0:
        del data[part.start : part.end]
    elif what == 1:
        data[other.start : other.start] = content * int(random.choice((1, 2, 20)))
    else:
        data[other.start : other.end] = content


Mutation = Callable[[Random, bytearray, Sequence[bytes]], None]
MUTATIONS: Mapping[str, tuple[Mutation, float]] = {
    "flip bits": (flip_bits, 3.0),
    "set a number": (set_number, 2.0),
    "fill": (fill, 1.5),
    "truncate": (truncate, 1.0),
    "cut out": (cut_out, 1.0),
    "double": (double, 1.0),
    "splice": (splice, 1.0),
    "edit a size": (edit_size, 1.5),
    "edit a kind": (edit_kind, 1.0),
    "edit content": (edit_content, 3.0),
    "move a part": (move_part, 1.5),
}
_NAMES = list(MUTATIONS)
_SHARES = np.array([share for _, share in MUTATIONS.values()]) / sum(share for _, share in MUTATIONS.values())


def mutate(random: Random, data: bytes, others: Sequence[bytes]) -> tuple[bytes, list[str]]:
    """A clip after one mutation or some, and which; at most `MAX_BYTES`.

    Args:
        others: clips to splice with.
    """
    changed, done = bytearray(data), []
    for _ in range(int(random.choice((1, 1, 1, 2, 4)))):
        if len(changed) < 16:
            break
        name = _NAMES[int(random.choice(len(_NAMES), p=_SHARES))]
        MUTATIONS[name][0](random, changed, others)
        done.append(name)
    return bytes(changed[:MAX_BYTES]), done
