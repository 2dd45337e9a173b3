"""What parity between runtimes found, as plain records: for the console, for parity.json, for engine.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from export.parity import Comparison, Tolerance


@dataclass(frozen=True)
class Gap:
    """Of one output, over matched detections: the largest and the mean difference. Boxes: of the worst
    corner, in input pixels.
    """

    max: float
    mean: float


@dataclass(frozen=True)
class RunResult:
    """One way of sending the photos. matched: pairs of detections, or boxes rescored. at_a_cliff: without a
    partner, beside a threshold that explains it. unexplained: without a partner and without reason. outliers:
    those, and pairs beyond the tolerance.
    """

    run: str
    images: int
    matched: int
    at_a_cliff: int
    unexplained: int
    outliers: int
    gaps: dict[str, Gap]


@dataclass(frozen=True)
class ApDifference:
    """against: "annotations", or "the reference's detections", which then has no AP of its own. missing: why
    there is none.
    """

    against: str
    reference: float | None
    candidate: float | None
    missing: str | None = None

    @property
    def difference(self) -> float | None:
        """Candidate less reference, where both are measured."""
        if self.reference is None or self.candidate is None:
            return None
        return self.candidate - self.reference


@dataclass(frozen=True)
class CandidateResult:
    """One backend against the reference."""

    backend: str
    precision: str
    tolerance: Tolerance
    outliers_allowed: float
    runs: tuple[RunResult, ...]
    rescored: RunResult | None
    ap: ApDifference
    recorded_in: str | None = None  # the engine's folder whose record holds this result

    @property
    def compared(self) -> int:
        """Detections with a partner, over all runs."""
        return sum(run.matched for run in self.runs)

    @property
    def outliers(self) -> int:
        """Detections that differ by more than the tolerance or that only one side reports, over all runs."""
        return sum(run.outliers for run in self.runs)

    @property
    def passed(self) -> bool:
        """Something was compared, and no more differs than may."""
        return not self.problems()

    def problems(self) -> list[str]:
        """What is wrong, a line each; empty where all is well."""
        return [
            *self._problems_of("detections", self.runs),
            *self._problems_of("rescored boxes", (self.rescored,) if self.rescored else ()),
        ]

    def _problems_of(self, what: str, runs: tuple[RunResult, ...]) -> Iterator[str]:
        compared, outliers = sum(run.matched for run in runs), sum(run.outliers for run in runs)
        if runs and compared + outliers == 0:
            yield f"no {what} to compare; take photos of what the model knows"
        elif outliers > self.outliers_allowed * compared:
            score = f"{self.tolerance.score:g}"
            how = (
                f"differ by more than {self.tolerance.pixels:g} px or {score}, or have no partner"
                if runs is self.runs
                else f"differ by more than {score}"
            )
            worst = max(runs, key=lambda run: run.outliers)
            gaps = ", ".join(f"{name} {gap.max:.2g}" for name, gap in worst.gaps.items())
            yield (
                f"{outliers} {what} {how}; matched {compared}, of which {self.outliers_allowed:.1%} may"
                + (f"; largest differences {worst.run}: {gaps}" if worst.matched else "")
            )

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object."""
        return {
            **asdict(self),
            "ap": {**asdict(self.ap), "difference": self.ap.difference},
            "passed": self.passed,
            "problems": self.problems(),
        }

    def for_engine(self, date: str) -> dict[str, Any]:
        """The fields of `hindsight.engines.EngineParity`."""
        boxes = [run.gaps["boxes"] for run in self.runs if run.matched]
        scores = [gap.max for run in self.runs for name, gap in run.gaps.items() if name != "boxes"]
        weights = [run.matched for run in self.runs if run.matched]
        return {
            "passed": self.passed,
            "max_pixels": max((gap.max for gap in boxes), default=0.0),
            "mean_pixels": float(np.average([gap.mean for gap in boxes], weights=weights)) if boxes else 0.0,
            "max_score": max(scores, default=0.0),
            "compared": self.compared,
            "outliers": self.outliers,
            "date": date,
        }


@dataclass(frozen=True)
class ParityResult:
    """Every candidate against one reference, and where and on what that was measured."""

    reference: str
    candidates: tuple[CandidateResult, ...]
    model: dict[str, str]  # name, version, sha256 of model.onnx
    photos: dict[str, Any]  # folder, count, batch, annotations
    versions: dict[str, str]
    hardware: dict[str, str]
    date: str | None

    @property
    def passed(self) -> bool:
        """Whether every candidate did."""
        return all(candidate.passed for candidate in self.candidates)

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object, for parity.json."""
        candidates = [candidate.to_json() for candidate in self.candidates]
        return {"passed": self.passed, **asdict(self), "candidates": candidates}


def run_result(run: str, images: int, comparison: Comparison, tolerance: Tolerance) -> RunResult:
    """The figures of one run."""
    return RunResult(
        run=run,
        images=images,
        matched=comparison.matched,
        at_a_cliff=comparison.explained,
        unexplained=comparison.unexplained,
        outliers=comparison.outliers(tolerance),
        gaps={
            name: Gap(float(values.max(initial=0)), float(values.mean()) if len(values) else 0.0)
            for name, values in comparison.by_name.items()
        },
    )
