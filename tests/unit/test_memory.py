"""Memory that is lent can be written here and read elsewhere, and nobody makes it smaller."""

import mmap
import os
import sys

import pytest

from worker.memory import lendable_memory, sealed_memory


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_what_is_written_is_read_through_the_descriptor(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    memory, descriptor = lendable_memory(100_000)
    memory[50_000:50_005] = b"hello"
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as elsewhere:
        os.close(descriptor)
        assert len(elsewhere) == 100_000
        assert elsewhere[50_000:50_005] == b"hello"


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_whoever_has_the_descriptor_cannot_change_the_size(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    _, descriptor = lendable_memory(100_000)
    for size in (0, 200_000):
        with pytest.raises(OSError, match=r"not permitted|Invalid argument"):
            os.ftruncate(descriptor, size)
    os.close(descriptor)


def test_elsewhere_than_on_linux_memory_cannot_be_sealed(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sealed_memory("ring", 1000) is None
