"""How many processor cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["usable_cores"]

_CGROUP_2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_1 = Path("/sys/fs/cgroup/cpu")


def usable_cores() -> int:
    """At least 1: those it may run on, and no more than a container's quota comes to."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota()
    return cores if quota is None else max(1, min(cores, math.floor(quota + 0.5)))


def _quota() -> float | None:
    """Of processor time, in cores."""
    try:
        if _CGROUP_2.exists():
            limit, period = _CGROUP_2.read_text().split()
        else:
            limit, period = ((_CGROUP_1 / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period"))
        return float(limit) / float(period) if limit != "max" and float(limit) > 0 else None
    except (OSError, ValueError):  # no such limits here
        return None
