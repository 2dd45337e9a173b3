"""One artifact through several runtimes on the same photos: how far is each from the first?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.average_precision import Document, Found, average_precision, detected_objects, why_unmeasured
from export.parity import (
    Comparison,
    compare_detections,
    compare_rescored,
    detections_of,
    merge,
)
from export.parity_limits import Limits
from export.parity_photos import PhotoBatch, Prepared, prepare
from export.parity_result import ApDifference, CandidateResult, RunResult, run_result
from hindsight.artifact import Artifact
from hindsight.errors import RuntimeFailure
from hindsight.preprocess import boxes_to_original
from hindsight.runtime import Runtime

_RANDOM_BOXES = 8  # rescored in each photo beside the boxes that were detected there
_IMAGE_INPUTS = ("images", "image_sizes")
Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Answers:
    """What one runtime said of every batch of the plan; `rescored`: of the photos alone, if the model can,
    at `boxes` [n, 4], input pixels.
    """

    detected: tuple[Outputs, ...]
    rescored: tuple[Outputs, ...]
    boxes: tuple[NDArray[np.float32], ...]


def answers_of(
    runtime: Runtime,
    artifact: Artifact,
    plan: Sequence[PhotoBatch],
    progress: Callable[[str], None],
    reference: Answers | None = None,
) -> Answers:
    """Run the plan. The boxes to rescore are the reference's; without one, those that are detected here.

    Raises RuntimeFailure.
    """
    detected: list[Outputs] = []
    rescored: list[Outputs] = []
    boxes: list[NDArray[np.float32]] = []
    for index, batch in enumerate(plan):
        progress(f"{batch.run}: batch {index + 1} of {len(plan)}")
        prepared = prepare(batch, artifact.manifest)
        outputs = runtime.detect(prepared.feeds)
        detected.append({name: np.array(values) for name, values in outputs.items()})
        if batch.run == "alone" and artifact.rescore_path is not None:
            own = boxes_to_rescore(detected[-1], prepared, artifact)
            boxes.append(own if reference is None else reference.boxes[len(boxes)])
            rescored.append(dict(runtime.rescore(_rescore_feeds(prepared, boxes[-1]))))
    return Answers(tuple(detected), tuple(rescored), tuple(boxes))


def boxes_to_rescore(outputs: Outputs, prepared: Prepared, artifact: Artifact) -> NDArray[np.float32]:
    """[n, 4] in input pixels: the detections of a photo, best first, and random boxes."""
    height, width = prepared.geometry[0].valid_hw
    random = np.random.default_rng(0).uniform(0, 1, (_RANDOM_BOXES, 2, 2))
    strays = (np.sort(random, axis=1) * (width, height)).reshape(_RANDOM_BOXES, 4)
    found = detections_of(outputs, 0)["boxes"]
    return np.concatenate([strays, found])[: artifact.manifest.max_rescore_boxes].astype(np.float32)


def _rescore_feeds(prepared: Prepared, boxes: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    images = {name: prepared.feeds[name] for name in _IMAGE_INPUTS}
    return {**images, "boxes": boxes[None], "num_boxes": np.array([len(boxes)], np.int64)}


def compare_backends(
    backend: str,
    expected: Answers,
    found: Answers,
    artifact: Artifact,
    plan: Sequence[PhotoBatch],
    limits: Limits,
    truth: Document | None,
) -> CandidateResult:
    """Hold a candidate's answers against the reference's. `truth`: the photos' annotations; without them AP
    is measured against what the reference detected at its default threshold.
    """
    parts: dict[str, list[Comparison]] = {}
    images: dict[str, int] = {}
    alone: list[tuple[Found, Found]] = []
    for batch, own, other in zip(plan, expected.detected, found.detected, strict=True):
        if set(own) != set(other):
            raise RuntimeFailure(f"{backend} gives {sorted(other)}, the reference {sorted(own)}")
        prepared = prepare(batch, artifact.manifest)
        for index, comparison in enumerate(_each_image(own, other, prepared, limits, artifact)):
            parts.setdefault(batch.run, []).append(comparison)
            if batch.run == "alone":
                alone.append((_found(own, prepared, index), _found(other, prepared, index)))
        images[batch.run] = images.get(batch.run, 0) + len(batch.photos)
    runs = [run_result(run, images[run], merge(own), limits.tolerance) for run, own in parts.items()]
    rescored: RunResult | None = None
    if expected.rescored:
        pairs = zip(expected.rescored, found.rescored, strict=True)
        whole = merge([compare_rescored(own, other) for own, other in pairs])
        rescored = run_result("rescored", images["alone"], whole, limits.tolerance)
    return CandidateResult(
        backend=backend,
        precision=limits.precision,
        tolerance=limits.tolerance,
        outliers_allowed=limits.outliers,
        runs=tuple(runs),
        rescored=rescored,
        ap=_ap_difference(alone, truth, artifact),
    )


def _each_image(
    own: Outputs, other: Outputs, prepared: Prepared, limits: Limits, artifact: Artifact
) -> Iterator[Comparison]:
    for index, filters in enumerate(prepared.filters):
        yield compare_detections(
            detections_of(own, index),
            detections_of(other, index),
            filters,
            artifact.manifest.max_detections,
            limits.tolerance,
            featureless=False,
        )


def _found(outputs: Outputs, prepared: Prepared, index: int) -> Found:
    rows = detections_of(outputs, index)
    boxes = boxes_to_original(rows["boxes"], prepared.geometry[index])
    return Found(boxes, rows["labels"].astype(np.int64), rows["scores"])


def _ap_difference(
    alone: Sequence[tuple[Found, Found]], truth: Document | None, artifact: Artifact
) -> ApDifference:
    against = "the reference's detections" if truth is None else "annotations"
    reason = why_unmeasured()
    if reason is not None:
        return ApDifference(against, None, None, reason)
    references, candidates = [pair[0] for pair in alone], [pair[1] for pair in alone]
    if truth is not None:
        return ApDifference(
            against, average_precision(truth, references), average_precision(truth, candidates)
        )
    least = artifact.manifest.defaults.score_threshold
    truth = detected_objects(references, least, artifact.manifest.class_names)
    ap = average_precision(truth, candidates)
    reason = f"the reference detected nothing that scores {least:g}" if ap is None else None
    return ApDifference(against, None, ap, reason)
