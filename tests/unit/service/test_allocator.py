"""Memory is given back when it has grown, and only then."""

from __future__ import annotations

import asyncio

import pytest

from service import allocator

MEGABYTE = 2**20


def trims(monkeypatch: pytest.MonkeyPatch, *resident: int) -> list[int]:
    """Run over these readings in MB; -> the readings at which it trimmed."""
    readings = iter(resident)
    last, trimmed = 0, []

    def read() -> int:
        nonlocal last
        last = next(readings, -1)
        if last < 0:
            raise asyncio.CancelledError
        return last * MEGABYTE

    monkeypatch.setattr(allocator, "_INTERVAL", 0)
    monkeypatch.setattr(allocator, "_resident_bytes", read)
    monkeypatch.setattr(allocator, "_malloc_trim", lambda: lambda pad: trimmed.append(last))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(allocator.trim_now_and_then())
    return trimmed


def test_growth_is_trimmed_even_if_it_creeps(monkeypatch: pytest.MonkeyPatch) -> None:
    # The baseline, then each look; after a trim, one more reading.
    assert trims(monkeypatch, 100, 120, 131, 133, 110, 136, 115) == [133, 136]


def test_what_stays_small_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trims(monkeypatch, 100, 90, 110, 121) == []


def test_this_machine_tells_its_memory() -> None:
    assert allocator._resident_bytes() > MEGABYTE
