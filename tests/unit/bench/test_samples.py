"""Percentiles, rates and limits, by hand."""

from __future__ import annotations

import json
import math
import random

import pytest

from hindsight.bench.checks import Limits, check, parse_quantity
from hindsight.bench.load import Closed, Load
from hindsight.bench.presets import drift
from hindsight.bench.samples import Sample, percentile, summarise
from hindsight.bench.session import Measured
from hindsight.errors import OptionError


def good(intended: float, latency: float, sent: float | None = None) -> Sample:
    return Sample("detect", intended, sent or intended, intended + latency, "good", 200, 1, 1)


def bad(intended: float, latency: float, outcome: str = "gave up", status: int = 0) -> Sample:
    return Sample("detect", intended, intended, intended + latency, outcome, status)


def test_a_percentile_is_a_measured_value() -> None:
    values = list(range(1, 1001))
    random.Random(0).shuffle(values)
    assert [percentile(values, percent) for percent in (50, 90, 99, 99.9, 100)] == [500, 900, 990, 999, 1000]
    assert percentile([7.0], 99) == 7.0
    assert percentile([1.0, 2.0, math.inf], 50) == 2.0


def test_rates_count_what_ended_in_the_window_and_latencies_what_began_in_it() -> None:
    samples = [
        good(-1.0, 1.5),  # begun in the warm-up, ended in the window
        good(0.0, 0.1),
        good(3.9, 0.5),  # begun in the window, ended after it
        bad(1.0, 2.0),
        bad(2.0, 0.1, "503 busy", 503),
        good(4.2, 0.1),  # after it
    ]
    summary = summarise(samples, 4.0)
    assert (summary.requests, summary.good) == (4, 2)
    assert summary.goodput == 2 / 4 and summary.requests_per_second == 3 / 4
    assert summary.latency_ms["p50"] == pytest.approx(100) and summary.latency_ms["max"] == pytest.approx(500)
    assert summary.failures == {"gave up": 1, "503 busy": 1}
    assert summary.p99_of_all_ms is None


def test_latency_runs_from_the_intended_moment() -> None:
    summary = summarise([good(1.0, 0.5, sent=1.4)], 4.0)
    assert summary.latency_ms["p50"] == pytest.approx(500) and summary.late_ms == pytest.approx(400)


def test_stages_of_several_images_are_for_one() -> None:
    sample = Sample("detect", 0, 0, 0.1, "good", 200, 4, 4, {"model": 80.0})
    stages = summarise([sample], 1.0).stages_ms
    assert list(stages) == ["model"] and stages["model"].p50 == 20 and stages["model"].share is None


def test_nothing_measured_is_no_crash() -> None:
    summary = summarise([], 0.0)
    assert (summary.requests, summary.goodput, summary.latency_ms, summary.p99_of_all_ms) == (0, 0, {}, None)
    json.dumps(summary.to_json(), allow_nan=False)


def measured(samples: list[Sample], judged: bool = True, **facts: float) -> Measured:
    load = Load(Closed(1), seconds=10.0)
    return Measured("m", load, summarise(samples, 10.0), samples, 0, 0.1, judged, dict(facts))


HUNDRED = [good(0.05 * number, 0.001 * (number + 1)) for number in range(100)]


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (Limits(max_p99=99.001), True),
        (Limits(max_p99=98.5), False),
        (Limits(min_goodput=parse_quantity("", "10")), True),
        (Limits(min_goodput=parse_quantity("", "10.1")), False),
        (Limits(max_errors=parse_quantity("", "0")), True),
    ],
)
def test_limits_on_a_good_run(limits: Limits, kept: bool) -> None:
    [found] = check(limits, [measured(HUNDRED)])
    assert found.kept is kept, found.text


@pytest.mark.parametrize(("errors", "kept"), [("2", True), ("1", False), ("2%", True), ("1.9%", False)])
def test_limits_on_errors(errors: str, kept: bool) -> None:
    [found] = check(
        Limits(max_errors=parse_quantity("", errors)), [measured([*HUNDRED[2:], bad(1, 1), bad(1, 1)])]
    )
    assert found.kept is kept, found.text


def test_a_request_without_an_answer_is_slower_than_any_limit() -> None:
    [found] = check(Limits(max_p99=1e9), [measured([*HUNDRED[2:], bad(1, 0.1), bad(1, 0.1)])])
    assert not found.kept


def test_nothing_measured_keeps_no_limit() -> None:
    limits = Limits(1.0, parse_quantity("", "1"), parse_quantity("", "5"))
    assert [found.kept for found in check(limits, [measured([])])] == [False] * 3


def test_goodput_as_a_share_of_the_capacity() -> None:
    capacity = measured([], judged=False, capacity_per_second=20.0)
    [found] = check(Limits(min_goodput=parse_quantity("", "50%")), [capacity, measured(HUNDRED)])
    assert found.kept and "50.0%" in found.text
    [found] = check(Limits(min_goodput=parse_quantity("", "51%")), [capacity, measured(HUNDRED)])
    assert not found.kept
    [found] = check(Limits(min_goodput=parse_quantity("", "1%")), [measured(HUNDRED)])
    assert not found.kept and "was not measured" in found.text


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "inf", "5%%"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--max-errors takes"):
        parse_quantity("--max-errors", text)


def test_drift_compares_the_first_third_with_the_last() -> None:
    samples = [good(0.03 * n, 0.1 if n < 200 else 0.15) for n in range(300)]
    found = drift(samples, 9.0)
    assert found["p50_first_ms"] == pytest.approx(100) and found["p50_last_ms"] == pytest.approx(150)
    assert found["p99_drift"] == pytest.approx(0.5)
