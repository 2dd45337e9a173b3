"""What came back: one sample a request, and their summary.

Times are seconds since the measurement began; negative ones belong to the warm-up. A latency runs from the
moment a request was MEANT to be sent to its answer's last byte: a server that stalls delays the requests
behind it too, and a tool that counted from the moment it got round to sending would not see that (Gil Tene's
"coordinated omission").
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = [
    "ELSEWHERE",
    "GOOD",
    "Recorder",
    "Sample",
    "Stage",
    "Summary",
    "percentile",
    "summarise",
    "with_failures",
]

GOOD = "good"
ELSEWHERE = "elsewhere"  # beside the server's own stages
_PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
_WHOLE = "total"  # a stage that is the sum of the others


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. `outcome`: "good", "gave up" (the client did), "no connection: ...", "503 busy", ...

    `done`: answered, or given up. `good_images`: those of its `images` that were answered without a problem.
    `stages`: milliseconds by the server's own account.
    """

    kind: str
    intended: float
    sent: float
    done: float
    outcome: str
    status: int = 0
    images: int = 1
    good_images: int = 0
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def latency(self) -> float:
        return self.done - self.intended

    @property
    def is_good(self) -> bool:
        return self.outcome == GOOD


@dataclass(frozen=True)
class Stage:
    """Milliseconds in one of the server's stages, for one image; `share` of the client's mean latency, of
    requests with one image: those of several run side by side.
    """

    mean: float
    p50: float
    p99: float
    share: float | None


@dataclass(frozen=True)
class Summary:
    """Of a measurement of `seconds`. Rates are of what ended within it; everything else is of the requests
    meant to be sent within it.

    requests: sent, or meant to be. good: rightly answered before the client gave up. `requests_per_second`:
    answers of any status; `goodput`: good ones; `images_per_second`: images in those.
    `latency_ms`: of the good ones: mean, p50, p90, p95, p99, p99.9, max; empty without any.
    `p99_of_all_ms`: over all requests, where one without a good answer is slower than any other: None if the
    99th of a hundred has none. `failures`: outcome -> how many, the good aside.
    `stages_ms`: the server's account; `elsewhere`: the rest of the client's time,
    where requests have one image.
    `late_ms`: the 99th percentile of how late the tool itself sent.
    """

    seconds: float
    requests: int
    good: int
    images: int
    good_images: int
    requests_per_second: float
    goodput: float
    images_per_second: float
    latency_ms: dict[str, float]
    p99_of_all_ms: float | None
    failures: dict[str, int]
    stages_ms: dict[str, Stage]
    late_ms: float

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = _rounded(asdict(self))
        return document


class Recorder:
    """Collects samples while a load runs. `in_flight`: requests without an answer yet."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.in_flight = 0

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` that `percent` % of them do not exceed: a time that was measured, never one
    between two.
    """
    rank = math.ceil(round(percent * len(values) / 100, 9))
    return sorted(values)[max(rank, 1) - 1]


def summarise(samples: Sequence[Sample], seconds: float) -> Summary:
    """Of the measurement that began at 0 and took `seconds`."""
    measured = [sample for sample in samples if 0 <= sample.intended < seconds]
    good = [sample for sample in measured if sample.is_good]
    ended = [sample for sample in samples if 0 <= sample.done < seconds]
    latencies = [1000 * sample.latency for sample in good]
    return Summary(
        seconds=seconds,
        requests=len(measured),
        good=len(good),
        images=sum(sample.images for sample in measured),
        good_images=sum(sample.good_images for sample in measured),
        requests_per_second=_rate(sum(sample.status > 0 for sample in ended), seconds),
        goodput=_rate(sum(sample.is_good for sample in ended), seconds),
        images_per_second=_rate(sum(sample.good_images for sample in ended), seconds),
        latency_ms=_spread(latencies),
        p99_of_all_ms=_finite(percentile(with_failures(measured), 99)) if measured else None,
        failures=dict(Counter(sample.outcome for sample in measured if not sample.is_good).most_common()),
        stages_ms=_stages(good),
        late_ms=1000 * percentile([sample.sent - sample.intended for sample in measured], 99)
        if measured
        else 0.0,
    )


def with_failures(samples: Sequence[Sample]) -> list[float]:
    """Latencies in milliseconds; infinite where no good answer came."""
    return [1000 * sample.latency if sample.is_good else math.inf for sample in samples]


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    points = {f"p{percent:g}": percentile(values, percent) for percent in _PERCENTILES}
    return {"mean": statistics.fmean(values), **points, "max": max(values)}


def _stages(good: Sequence[Sample]) -> dict[str, Stage]:
    """Over those whose answer gives an account, and `elsewhere`: network, HTTP, waiting to be read."""
    told = [sample for sample in good if sample.stages]
    if not told:
        return {}
    names = list(dict.fromkeys(name for sample in told for name in sample.stages if name != _WHOLE))
    # The server sums over a request's images.
    columns = {name: [sample.stages.get(name, 0.0) / sample.images for sample in told] for name in names}
    whole = statistics.fmean(1000 * sample.latency for sample in told)
    single = all(sample.images == 1 for sample in told)
    if single:
        columns[ELSEWHERE] = [
            max(0.0, 1000 * sample.latency - sum(row))
            for sample, row in zip(told, zip(*columns.values(), strict=True), strict=True)
        ]
    return {
        name: Stage(
            statistics.fmean(values),
            percentile(values, 50),
            percentile(values, 99),
            statistics.fmean(values) / whole if single and whole else None,
        )
        for name, values in columns.items()
    }


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value
