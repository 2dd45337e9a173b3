"""What is remembered of batches that did not fit, and for how long."""

from __future__ import annotations

from service.batch_limits import BatchLimits

SHAPE, OTHER = ("m", "detect", (64, 96)), ("m", "detect", (96, 96))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_half_of_what_failed_is_allowed_for_that_shape_alone() -> None:
    limits = BatchLimits(16, Clock())
    limits.refused(SHAPE, 10)
    assert (limits.allowed(SHAPE), limits.allowed(OTHER)) == (5, 16)
    limits.refused(SHAPE, 5)
    limits.refused(SHAPE, 2)
    assert limits.allowed(SHAPE) == 1


def test_each_probe_that_fails_waits_twice_as_long_for_the_next() -> None:
    clock = Clock()
    limits = BatchLimits(8, clock)
    limits.refused(SHAPE, 8)
    probes: list[float] = []
    while clock.now < 6000:
        clock.now += 1
        if limits.allowed(SHAPE) == 8:
            probes.append(clock.now)
            limits.refused(SHAPE, 8)
    gaps = [round(later - earlier) for earlier, later in zip([0.0, *probes], probes, strict=False)]
    assert gaps == [30, 60, 120, 240, 480, 960, 1800, 1800]


def test_probes_that_succeed_raise_the_limit_step_by_step() -> None:
    clock = Clock()
    limits = BatchLimits(8, clock)
    limits.refused(SHAPE, 4)
    limits.fitted(SHAPE, 2)
    assert limits.allowed(SHAPE) == 2
    for expected in (4, 8):
        clock.now += 31
        assert limits.allowed(SHAPE) == expected
        limits.fitted(SHAPE, expected)
    clock.now += 1
    assert limits.allowed(SHAPE) == 8
