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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_large_tensor_allocated_again_faults_no_page() -> None:
    # a process of its own: the setting can't be taken back
    done = subprocess.run([sys.executable, "-c", _PAGES_BACK], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200  # 20 x 4,096 pages when every tensor is mapped anew


def test_a_system_without_mallopt_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    assert host_memory.keep_freed_pages() is False
