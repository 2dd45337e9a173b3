"""Run the torch model and the exported graphs on the same inputs, and write down how far they are apart."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from export.parity import (
    Comparison,
    Filters,
    Tolerance,
    compare_detections,
    compare_rescored,
    detections_of,
    merge,
)
from export.parity_inputs import ParityInput
from hindsight.runtime import Runtime
from model.detector import TwoStageDetector

# A rounding difference may also fall on a cliff inside the model (the feature level of a box, the last
# proposal), where no threshold of the output explains it. It is rare: this share of the detections may
# differ for that reason.
OUTLIERS_ALLOWED = 2e-3
RESCORE_OUTPUTS = ("ious", "purities", "integrities", "class_scores")


@dataclass(frozen=True)
class CaseResult:
    """One input through one graph. compared: detections matched, or boxes rescored."""

    graph: str
    case: str
    batch: int
    height: int
    width: int
    compared: int
    explained: int
    outliers: int
    max_pixels: float
    mean_pixels: float
    max_score: float
    mean_score: float


@dataclass(frozen=True)
class ParityReport:
    """Every case, the tolerance it was held to, and whether the graphs passed."""

    tolerance: Tolerance
    outliers_allowed: float
    cases: tuple[CaseResult, ...]
    versions: dict[str, str]

    @property
    def passed(self) -> bool:
        """True where something was compared by every graph and no more differs than rounding can explain."""
        return not self.problems()

    def problems(self) -> list[str]:
        """What is wrong, a line each; empty where all is well."""
        found = []
        for graph in dict.fromkeys(case.graph for case in self.cases):
            own = [case for case in self.cases if case.graph == graph]
            compared, outliers = sum(case.compared for case in own), sum(case.outliers for case in own)
            if compared == 0:
                found.append(f"{graph}: no detection to compare in {len(own)} cases; lower the thresholds")
            elif outliers > self.outliers_allowed * compared:
                worst = max(own, key=lambda case: case.outliers)
                found.append(
                    f"{graph}: {outliers} of {compared} differ by more than {self.tolerance.pixels} px or "
                    f"{self.tolerance.score} (worst: {worst.case}, {worst.max_pixels:.2g} px, "
                    f"{worst.max_score:.2g})"
                )
        return found

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object, for parity.json."""
        return {"passed": self.passed, "problems": self.problems(), **asdict(self)}


def check_parity(
    detector: TwoStageDetector,
    runtime: Runtime,
    inputs: Sequence[ParityInput],
    tolerance: Tolerance,
    progress: Callable[[str], None],
) -> ParityReport:
    """Compare `detector` with the graphs that `runtime` executes, on every input."""
    cases: list[CaseResult] = []
    for item in inputs:
        progress(f"parity: {item.name}")
        cases.extend(_run_case(detector, runtime, item, tolerance))
    versions = {name: _version(name) for name in ("torch", "onnx", "onnxruntime")} | {
        "python": platform.python_version()
    }
    return ParityReport(tolerance, OUTLIERS_ALLOWED, tuple(cases), versions)


def _run_case(
    detector: TwoStageDetector, runtime: Runtime, item: ParityInput, tolerance: Tolerance
) -> Iterator[CaseResult]:
    feeds = item.detect_feeds()
    expected = run_eager(detector, feeds)
    found = runtime.detect(feeds)
    if set(expected) != set(found):
        raise ValueError(f"model.onnx gives {sorted(found)}, the torch model {sorted(expected)}")
    limit = detector.config.max_detections
    comparisons = []
    for image in range(item.batch):
        filters = Filters(
            float(feeds["class_threshold"][image]),
            float(feeds["score_threshold"][image]),
            float(feeds["nms_threshold"][0]),
        )
        own, other = detections_of(expected, image), detections_of(found, image)
        comparisons.append(
            compare_detections(own, other, filters, limit, tolerance, featureless=item.featureless)
        )
    yield _result("model", item, merge(comparisons), tolerance)
    if not detector.can_rescore:
        return
    rescore_feeds = item.rescore_feeds()
    yield _result(
        "rescore",
        item,
        compare_rescored(run_eager_rescore(detector, rescore_feeds), runtime.rescore(rescore_feeds)),
        tolerance,
    )


@torch.no_grad()
def run_eager(detector: TwoStageDetector, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The torch model on model.onnx's inputs; outputs under model.onnx's names, absent heads left out."""
    output = detector(*(torch.from_numpy(value) for value in feeds.values()))
    return {name: value.numpy() for name, value in output._asdict().items() if value is not None}


@torch.no_grad()
def run_eager_rescore(detector: TwoStageDetector, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The torch model on the inputs of rescore.onnx."""
    values = detector.rescore(*(torch.from_numpy(value) for value in feeds.values()))
    named = zip(RESCORE_OUTPUTS, values, strict=True)
    return {name: value.numpy() for name, value in named if value is not None}


def _result(graph: str, item: ParityInput, comparison: Comparison, tolerance: Tolerance) -> CaseResult:
    pixels, scores = comparison.pixel_differences, comparison.score_differences
    return CaseResult(
        graph=graph,
        case=item.name,
        batch=item.batch,
        height=item.images.shape[1],
        width=item.images.shape[2],
        compared=comparison.matched,
        explained=comparison.explained,
        outliers=comparison.outliers(tolerance),
        max_pixels=float(pixels.max(initial=0)),
        mean_pixels=float(pixels.mean()) if len(pixels) else 0.0,
        max_score=float(scores.max(initial=0)),
        mean_score=float(scores.mean()) if len(scores) else 0.0,
    )


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:  # onnxruntime comes under several names
        return version(f"{distribution}-gpu")
