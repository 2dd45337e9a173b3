"""The judged data set: one ranking of its annotations and of the objects it seems to lack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hindsight.audit.dataset import AuditImage, AuditSet
from hindsight.audit.journal import Journal
from hindsight.audit.judge import Judged, Missing, judge, missing
from hindsight.audit.sizes import usual_sizes

__all__ = ["Finding", "Findings", "judge_all"]


@dataclass(frozen=True, slots=True)
class Finding:
    """An annotation (row `row` of the set's image `image`), or with row None an object without one."""

    image: int
    row: int | None
    said: Judged | Missing


@dataclass(frozen=True, eq=False)
class Findings:
    """ranked: the annotations that are judged, the most suspicious first, then the objects that have none,
    the surest first: a score of the model's and a doubt about a label do not compare. judged: for each image
    of the set its annotations in their order, None for an image that could not be looked at.
    """

    ranked: tuple[Finding, ...]
    judged: tuple[tuple[Judged, ...] | None, ...]
    lacking: tuple[tuple[Missing, ...], ...]

    def worst(self, count: int) -> tuple[Finding, ...]:
        """The first `count` annotations, and the first `count` objects without one."""
        absent = next((place for place, f in enumerate(self.ranked) if f.row is None), len(self.ranked))
        return self.ranked[: min(count, absent)] + self.ranked[absent : absent + count]


def judge_all(dataset: AuditSet, journal: Journal, unusable: Sequence[AuditImage]) -> Findings:
    """Of what the journal holds; `unusable`: images that could not be looked at."""
    without = {id(image) for image in unusable}
    sizes = usual_sizes((image.boxes, image.labels) for image in dataset.images)
    asked = frozenset(label for label in dataset.labels if label >= 0)
    found: list[Finding] = []
    judged: list[tuple[Judged, ...] | None] = []
    lacking: list[tuple[Missing, ...]] = []
    for index, image in enumerate(dataset.images):
        if id(image) in without:
            judged.append(None)
            lacking.append(())
            continue
        examined = journal.read(image.signature)
        said = judge(examined, image.boxes, image.labels, sizes)
        absent = missing(examined, image.boxes, asked)
        judged.append(tuple(said))
        lacking.append(tuple(absent))
        found += [Finding(index, row, each) for row, each in enumerate(said) if each.verdict != "not judged"]
        found += [Finding(index, None, each) for each in absent]
    # stable: equals stay in the set's order
    found.sort(key=lambda finding: (finding.row is None, -finding.said.suspicion))
    return Findings(tuple(found), tuple(judged), tuple(lacking))
