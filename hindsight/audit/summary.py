"""Counts over the whole data set, by class and verdict."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field

from hindsight.audit.dataset import AuditSet
from hindsight.audit.findings import Findings

__all__ = ["BINS", "MISSING", "ClassSummary", "summarise"]

BINS = 20  # of predicted IoU, 0 to 1
MISSING = "missing"


@dataclass
class ClassSummary:
    """Of one class of the data set. verdicts: how many annotations got each, and MISSING objects. histogram:
    for each bin of predicted IoU how many annotations are fine and how many are suspicious.
    """

    name: str
    annotations: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    ious: list[float] = field(default_factory=list)
    histogram: list[list[int]] = field(default_factory=lambda: [[0, 0] for _ in range(BINS)])

    @property
    def suspicious(self) -> int:
        """Annotations that are judged and not fine."""
        return self.annotations - self.verdicts["fine"] - self.verdicts["not judged"]

    @property
    def median_iou(self) -> float | None:
        """Of the predicted IoUs; None where nothing was judged."""
        return statistics.median(self.ious) if self.ious else None


def summarise(dataset: AuditSet, findings: Findings) -> tuple[ClassSummary, ...]:
    """One for each class of the data set, in its order."""
    summaries = tuple(ClassSummary(name) for name in dataset.class_names)
    for image, judged, lacking in zip(dataset.images, findings.judged, findings.lacking, strict=True):
        for own_class, said in zip(image.classes.tolist(), judged or (), strict=False):
            own = summaries[own_class]
            own.annotations += 1
            own.verdicts[said.verdict] += 1
            if said.verdict != "not judged":
                own.ious.append(said.iou)
                own.histogram[min(BINS - 1, int(said.iou * BINS))][said.verdict != "fine"] += 1
        for absent in lacking:
            summaries[dataset.data_class(absent.own.label)].verdicts[MISSING] += 1
    return summaries
