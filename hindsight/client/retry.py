"""When a request is sent again, and how long to wait first. Detecting, judging and listing change nothing on
the server, so all of them are safe to repeat.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["BUSY", "PASSING", "pause", "retry_after"]

BUSY = frozenset({429, 503})
"""Statuses that say: later."""
PASSING = BUSY | {502}
"""Statuses that may be different a moment later."""

_FIRST, _LONGEST = 0.25, 8.0  # seconds, where the server does not say
_JITTER = 0.1


def pause(failures: int, wait: float | None) -> float:
    """Seconds until the next try, after so many failures (from 1). wait: what the server asked for; it is
    never cut short, and somewhat prolonged, so that those who were sent away together do not return together.
    """
    backoff = min(_LONGEST, _FIRST * 2.0 ** min(failures - 1, 16)) * random.uniform(0.5, 1)
    return backoff if wait is None else max(wait * random.uniform(1, 1 + _JITTER), backoff)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from the header Retry-After: a number of them, or a date; None where it is neither."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    moment = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
