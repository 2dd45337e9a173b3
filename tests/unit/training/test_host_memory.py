"""Freed pages stay with the process where the C library can be asked; elsewhere nothing breaks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from training import host_memory

_PAGES_BACK = """
import resource, torch
from training.host_memory import keep_freed_pages
assert keep_freed_pages()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(4 * 1024 * 1024)  # 16 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""

# untouched memory costs nothing but addresses
_HEAP_STAYS = """
import ctypes, torch
from training.host_memory import keep_freed_pages
assert keep_freed_pages()
end_of_heap = ctypes.CDLL(None).sbrk
end_of_heap.restype = ctypes.c_void_p
large = torch.empty(3 * 2**30, dtype=torch.uint8)
before = end_of_heap(0)
del large
print(before - end_of_heap(0))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_large_tensor_allocated_again_faults_no_page() -> None:
    # a process of its own: the setting can't be taken back
    done = subprocess.run([sys.executable, "-c", _PAGES_BACK], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200  # 20 x 4,096 pages when every tensor is mapped anew


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_more_than_two_gigabytes_freed_at_once_stay_too() -> None:
    done = subprocess.run([sys.executable, "-c", _HEAP_STAYS], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 0


def test_a_system_without_mallopt_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    assert host_memory.keep_freed_pages() is False
