"""Training on a CPU allocates the same large tensors at every step: keep their pages."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def keep_freed_pages() -> bool:
    """Ask glibc not to return freed memory to the system; whether it listens.

    By default every large tensor is mapped anew, zeroed page by page on first touch and unmapped after use,
    which costs a CPU training step of `cells` about a tenth of its time, and far more on a virtual machine
    whose host takes long to give a page. Elsewhere than on glibc nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # -1: never. A number would be at most 2 GiB, which the end of a step frees in one piece.
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 2**28))
    return all([mallopt(name, value) == 1 for name, value in settings])
