"""Run the torch model and the exported graphs on the same inputs, and write down how far they are apart."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from export.parity_result import ApDifference, CandidateResult, ParityResult, RunResult, run_result
from hindsight.runtime import Runtime
from model.detector import TwoStageDetector

# A rounding difference may also fall on a cliff inside the model (the feature level of a box, the last
# proposal), where no threshold of the output explains it. It is rare: this share of the detections may
# differ for that reason.
OUTLIERS_ALLOWED = 2e-3
RESCORE_OUTPUTS = ("ious", "purities", "integrities", "class_scores")


@dataclass(frozen=True)
class CaseResult:
    """One input through one graph. run: what was found, under the input's name; its images are the batch."""

    graph: str
    height: int
    width: int
    run: RunResult

    @property
    def max_pixels(self) -> float:
        """Of box corners."""
        return self.run.gaps["boxes"].max if "boxes" in self.run.gaps else 0.0

    @property
    def max_score(self) -> float:
        """Of any probability."""
        return max((gap.max for name, gap in self.run.gaps.items() if name != "boxes"), default=0.0)


@dataclass(frozen=True)
class ParityReport:
    """Every case, and the verdict on all of them: ONNX Runtime as a candidate against the torch model."""

    candidate: CandidateResult
    cases: tuple[CaseResult, ...]
    versions: dict[str, str]

    @property
    def passed(self) -> bool:
        """True where something was compared by every graph and no more differs than rounding can explain."""
        return self.candidate.passed

    def problems(self) -> list[str]:
        """What is wrong, a line each; empty where all is well."""
        return self.candidate.problems()

    def to_json(self, model: dict[str, str], photos: int) -> dict[str, Any]:
        """As `hindsight parity` writes it, for parity.json; without a date: exports can be repeated.

        model: name, version, sha256. photos: how many of the inputs were made of real ones.
        """
        result = ParityResult(
            reference="the torch model@cpu",
            candidates=(self.candidate,),
            model=model,
            photos={"folder": "samples", "count": photos, "batch": None, "annotations": None},
            versions=self.versions,
            hardware={"cpu": platform.processor() or platform.machine()},
            date=None,
        )
        return result.to_json()


def check_parity(
    detector: TwoStageDetector,
    runtime: Runtime,
    inputs: Sequence[ParityInput],
    tolerance: Tolerance,
    progress: Callable[[str], None],
) -> ParityReport:
    """Compare `detector` with the graphs that `runtime` executes, on every input."""
    cases: list[CaseResult] = []
    rescored: list[Comparison] = []
    for item in inputs:
        progress(f"parity: {item.name}")
        cases.append(_case("model", item, _detected(detector, runtime, item, tolerance), tolerance))
        if detector.can_rescore:
            feeds = item.rescore_feeds()
            rescored.append(compare_rescored(run_eager_rescore(detector, feeds), runtime.rescore(feeds)))
            cases.append(_case("rescore", item, rescored[-1], tolerance))
    images = sum(item.batch for item in inputs)
    candidate = CandidateResult(
        backend="onnxruntime@cpu",
        precision="fp32",
        tolerance=tolerance,
        outliers_allowed=OUTLIERS_ALLOWED,
        runs=tuple(case.run for case in cases if case.graph == "model"),
        rescored=run_result("rescored", images, merge(rescored), tolerance) if rescored else None,
        ap=ApDifference("the reference's detections", None, None, "an export measures none"),
    )
    versions = {name: _version(name) for name in ("torch", "onnx", "onnxruntime")} | {
        "python": platform.python_version()
    }
    return ParityReport(candidate, tuple(cases), versions)


def _detected(
    detector: TwoStageDetector, runtime: Runtime, item: ParityInput, tolerance: Tolerance
) -> Comparison:
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
    return merge(comparisons)


def _case(graph: str, item: ParityInput, comparison: Comparison, tolerance: Tolerance) -> CaseResult:
    height, width = item.images.shape[1:3]
    return CaseResult(graph, height, width, run_result(item.name, item.batch, comparison, tolerance))


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


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:  # onnxruntime comes under several names
        return version(f"{distribution}-gpu")
