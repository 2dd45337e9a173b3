"""How messages speak of names: the nearest known one, and lists that stay short."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "listed"]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name, as an aside to be put behind the wrong one; empty where none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def listed(names: Iterable[str], most: int = 10) -> str:
    """The names with commas between; of more than `most` the first, and how many there are."""
    every = list(names)
    shown = ", ".join(every[:most])
    return shown if len(every) <= most else f"{shown}, ... {len(every)} in all"
