"""How many connections this process may open."""

from __future__ import annotations

import contextlib

from hindsight.errors import OptionError

__all__ = ["raise_file_limit"]

_OTHER_FILES = 64


def raise_file_limit(connections: int) -> None:
    """Make room for so many. Raises OptionError where the system allows no more."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft < needed:
        raise OptionError(
            f"{connections} connections need {needed} open files; this system allows {soft} (ulimit -n)"
        )
