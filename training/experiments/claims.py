"""Every claim, as it was written down before the runs: docs/experiments.md says the same in prose.

A comparison says which of two systems should do better, and by how much the paper says so; a test holds these
lines and the page's tables together. Correlations as they are, AP in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

from hindsight.errors import OptionError
from model.config import nearest


@dataclass(frozen=True)
class Comparison:
    """`better` > `worse` in each metric; expected differences by metric, None where the paper prints none."""

    id: str
    better: str
    worse: str
    expected: dict[str, float | None]


@dataclass(frozen=True)
class Claim:
    """`kind`: what it is measured on, "table" (claims 1 to 4), "detectors" or "regression"."""

    number: int
    name: str
    title: str
    kind: str
    comparisons: tuple[Comparison, ...]
    needs_gpu: bool = False

    @property
    def systems(self) -> tuple[str, ...]:
        """Every system once, in order of first mention, worse ones first."""
        names = (name for c in self.comparisons for name in (c.worse, c.better))
        return tuple(dict.fromkeys(names))


def _pearson(id: str, better: str, worse: str, expected: float | None) -> Comparison:
    return Comparison(id, better, worse, {"Pearson": expected})


def _ap(id: str, better: str, worse: str, **points: float | None) -> Comparison:
    """AP differences in points, as the papers print them."""
    return Comparison(
        id,
        better,
        worse,
        {metric: None if p is None else round(p / 100, 6) for metric, p in points.items()},
    )


CLAIMS = (
    Claim(
        1,
        "correlation",
        "Who knows how well a box lies?",
        "table",
        (
            _pearson("1a", "foresight IoU", "class score", 0.424),
            _pearson("1b", "hindsight IoU", "foresight IoU", 0.112),
            _pearson("1c", "hindsight P&I", "foresight P&I", None),
            _pearson("1d", "hindsight P&I", "hindsight IoU", 0.010),
            _pearson("1e", "hindsight P&I", "control", 0.010),
        ),
    ),
    Claim(
        2,
        "ranking",
        "Does it help to rank by it?",
        "table",
        (
            _ap("2a", "foresight IoU", "class score", AP=0.8, AP75=1.0, AP90=None),
            _ap("2b", "hindsight IoU", "foresight IoU", AP=1.1, AP75=1.4, AP90=None),
            _ap("2c", "hindsight P&I", "foresight P&I", AP=1.0, AP75=1.3, AP90=None),
            _ap("2d", "hindsight P&I", "hindsight IoU", AP=0.6, AP75=0.8, AP90=None),
            _ap("2e", "hindsight P&I", "control", AP=0.6, AP75=0.8, AP90=None),
            _ap("2f", "hindsight P&I", "class score", AP=2.5, AP75=3.2, AP90=None),
        ),
    ),
    Claim(
        3,
        "combination",
        "Purity and integrity, put together how?",
        "table",
        (
            _ap("3a", "Eq. (5)", "integrity", AP=1.2, AP75=0.9),
            _ap("3b", "Eq. (5)", "purity", AP=1.0, AP75=0.7),
            _ap("3c", "Eq. (5)", "geometric mean", AP=0.2, AP75=0.3),
            _ap("3d", "Eq. (5)", "arithmetic mean", AP=0.2, AP75=0.3),
        ),
    ),
    Claim(
        4,
        "features",
        "Whose features, in training and at inference?",
        "table",
        (
            _ap("4a", "box / box", "proposal / proposal", AP=1.0, AP75=1.3),
            _ap("4b", "box / box", "proposal / box", AP=0.6, AP75=0.8),
            _ap("4c", "box / box", "box / proposal", AP=1.4, AP75=1.6),
            _ap("4d", "proposal / box", "proposal / proposal", AP=0.4, AP75=0.5),
            _ap("4e", "proposal / proposal", "box / proposal", AP=0.4, AP75=0.3),
        ),
    ),
    Claim(
        5,
        "decoupled",
        "What decouples a detector?",
        "detectors",
        (
            _ap("5a", "NMS_reg .85", "NMS_reg .7", AP=1.6, AP90=3.7),
            _ap("5b", "three stages", "NMS_reg .85", AP=2.1, AP90=8.3),
            _ap("5c", "NMS_reg .7", "shared FC", AP=1.4, AP90=None),
        ),
        needs_gpu=True,
    ),
    Claim(
        6,
        "both",
        "Does DIR still add to the decoupled cascade?",
        "detectors",
        (
            _ap("6a", "with DIR", "with DIR, class score", AP=0.8, AP75=None, AP90=None),
            _ap("6b", "with DIR", "without DIR", AP=0.8, AP75=None, AP90=None),
        ),
        needs_gpu=True,
    ),
    Claim(
        7,
        "regression",
        "The IoU that a proposal is to foresee keeps moving",
        "regression",
        (
            Comparison("7a", "own positives, last epoch", "no change", {"mean change of IoU": None}),
            Comparison(
                "7b",
                "same proposals, last epoch",
                "same proposals, first epoch",
                {"mean change of IoU": None},
            ),
            Comparison(
                "7c", "first half of training", "second half of training", {"change between epochs": None}
            ),
        ),
    ),
)


def find_claim(name: str) -> Claim:
    """By name or number. Raises OptionError naming the nearest."""
    for claim in CLAIMS:
        if name in (claim.name, str(claim.number)):
            return claim
    raise OptionError(f"no claim {name!r}: {nearest(name, [claim.name for claim in CLAIMS])}")
