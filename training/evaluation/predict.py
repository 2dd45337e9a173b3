"""Runs a detector over a data set: a checkpoint in torch, an artifact in its runtime.

One pass serves every wanted iou_weight: the boxes and their scores are computed once and only ranked again.
An artifact's graph ranks inside, so it runs once per weight.

Evaluation reports everything: class_threshold .05 as the papers do, score_threshold 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hindsight.artifact import Artifact, ResizeRule
from hindsight.inputs import detect_inputs, rescore_inputs
from hindsight.options import DetectOptions
from hindsight.postprocess import split_detections
from hindsight.preprocess import boxes_to_original
from hindsight.runtime import open_runtime
from model.detector import TwoStageDetector
from model.ranking import rank
from model.structures import Candidates, DetectorOutput
from training.data.batch import Batch
from training.data.dataset import Dataset
from training.data.loader import EvalLoader
from training.evaluation.average_precision import Metrics, evaluate_predictions
from training.evaluation.localization import MIN_CLASS_SCORE, LocalizationRows, match_rows
from training.evaluation.masks import encode_masks
from training.evaluation.predictions import ImagePredictions
from training.evaluation.rescoring import Rescoring

CLASS_THRESHOLD = 0.05
SCORE_THRESHOLD = 0.0
NMS_THRESHOLD = 0.5
IOU_WEIGHT = 0.5

Progress = Callable[[int], None]  # called with the number of images just finished


@dataclass(frozen=True, eq=False)
class Pass:
    """What one run over the set gave: predictions per iou_weight, and the rows before NMS where they are to
    be had.
    """

    predictions: dict[float, list[ImagePredictions]]
    rows: LocalizationRows | None


def validate(
    detector: TwoStageDetector,
    dataset: Dataset,
    rule: ResizeRule,
    batch_size: int = 4,
    *,
    iou_weight: float = IOU_WEIGHT,
    progress: Progress | None = None,
) -> Metrics:
    """AP of a detector in training; leaves it in the mode (train or eval) it was in."""
    predictions = predict_checkpoint(
        detector, dataset, rule, batch_size, iou_weight=iou_weight, progress=progress
    )
    return evaluate_predictions(dataset, predictions)


def predict_checkpoint(
    detector: TwoStageDetector,
    dataset: Dataset,
    rule: ResizeRule,
    batch_size: int = 4,
    *,
    iou_weight: float = IOU_WEIGHT,
    progress: Progress | None = None,
) -> list[ImagePredictions]:
    """Kept detections of every image."""
    run = run_checkpoint(
        detector, dataset, rule, batch_size, (iou_weight,), with_rows=False, progress=progress
    )
    return run.predictions[iou_weight]


def run_checkpoint(
    detector: TwoStageDetector,
    dataset: Dataset,
    rule: ResizeRule,
    batch_size: int = 4,
    iou_weights: Sequence[float] = (0.0, IOU_WEIGHT),
    *,
    with_rows: bool = True,
    partial_rows: bool = False,
    class_threshold: float = CLASS_THRESHOLD,
    rescoring: Rescoring | None = None,
    masks: bool = False,
    progress: Progress | None = None,
) -> Pass:
    """One forward pass over the set, ranked with each of `iou_weights`; rows before NMS if `with_rows` and
    there is a localization head that tells purity and integrity. With `partial_rows` there are rows in any
    case, NaN where the detector does not say. `rescoring` gets its answers from the same features;
    with `masks` so do the predictions' masks, of a detector that makes some.
    """
    device = next(detector.parameters()).device
    predictions: dict[float, list[ImagePredictions]] = {weight: [] for weight in iou_weights}
    parts: list[LocalizationRows] = []
    with evaluating(detector):
        for batch in EvalLoader(dataset, batch_size, rule):
            images, image_sizes = batch.images.to(device), batch.image_sizes.to(device)
            pyramid = detector.extract(images, image_sizes)
            rois = detector.rois(pyramid)
            candidates = detector.candidates_from(pyramid, rois, images, image_sizes)
            for weight in iou_weights:
                ranked = _rank(candidates, class_threshold, weight, detector)
                predictions[weight] += _split(detector.segment(rois, ranked) if masks else ranked, batch)
            if with_rows and (candidates.purities is not None or partial_rows):
                parts += _rows_before_nms(candidates, batch)
            if rescoring is not None:
                asked = rescore_inputs(batch.letterboxed, rescoring.draw(batch))
                boxes, counts = (torch.from_numpy(asked[name]).to(device) for name in ("boxes", "num_boxes"))
                judged = detector.rescore_from(rois, image_sizes, boxes, counts)[:3]
                rescoring.add(batch, [part.float().cpu().numpy() for part in judged if part is not None])
            if progress is not None:
                progress(len(batch))
    return Pass(predictions, LocalizationRows.concatenate(parts) if parts else None)


def predict_artifact(
    artifact: Artifact,
    dataset: Dataset,
    batch_size: int = 4,
    *,
    iou_weight: float = IOU_WEIGHT,
    threads: int | None = None,
    masks: bool = False,
    progress: Progress | None = None,
) -> list[ImagePredictions]:
    """Kept detections of every image, by the artifact's graph under ONNX Runtime on the CPU.

    Their masks as well, if asked for and the model makes some.
    """
    manifest = artifact.manifest
    options = DetectOptions.resolve(
        manifest,
        class_threshold=CLASS_THRESHOLD,
        score_threshold=SCORE_THRESHOLD,
        iou_weight=iou_weight,
        nms_threshold=NMS_THRESHOLD,
    )
    runtime = open_runtime("onnxruntime", artifact, threads=threads)
    predictions = []
    try:
        for batch in EvalLoader(dataset, batch_size, manifest.resize):
            outputs = runtime.detect(detect_inputs(batch.letterboxed, [options] * len(batch)))
            for index, (image_id, boxed) in enumerate(zip(batch.image_ids, batch.letterboxed, strict=True)):
                found = split_detections(outputs, index, boxed, manifest, options)
                coded = (
                    encode_masks(found.masks, found.boxes, boxed.original_hw)
                    if masks and found.masks is not None
                    else None
                )
                predictions.append(
                    ImagePredictions(
                        image_id,
                        found.boxes,
                        found.labels,
                        found.scores,
                        found.class_scores,
                        found.ious,
                        found.purities,
                        found.integrities,
                        coded,
                    )
                )
            if progress is not None:
                progress(len(batch))
    finally:
        runtime.close()
    return predictions


def rescore_artifact(
    artifact: Artifact,
    dataset: Dataset,
    batch_size: int = 4,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The rescoring report of an artifact with a rescore graph, under ONNX Runtime on the CPU."""
    rescoring = Rescoring(dataset)
    runtime = open_runtime("onnxruntime", artifact, threads=threads)
    try:
        for batch in EvalLoader(dataset, batch_size, artifact.manifest.resize):
            answer = runtime.rescore(rescore_inputs(batch.letterboxed, rescoring.draw(batch)))
            rescoring.add(batch, [answer[name] for name in ("ious", "purities", "integrities")])
            if progress is not None:
                progress(len(batch))
    finally:
        runtime.close()
    return rescoring.report()


@contextmanager
def evaluating(detector: TwoStageDetector) -> Iterator[None]:
    """The detector in evaluation mode and without gradients; its own mode afterwards."""
    # no_grad, not inference_mode: what the detector caches (anchors) must stay usable in training.
    training = detector.training
    detector.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        detector.train(training)


def _rank(
    candidates: Candidates, class_threshold: float, iou_weight: float, detector: TwoStageDetector
) -> DetectorOutput:
    def column(value: float) -> Tensor:
        return candidates.class_scores.new_full((candidates.class_scores.shape[0],), value)

    return rank(
        candidates,
        column(class_threshold),
        column(SCORE_THRESHOLD),
        column(iou_weight),
        column(NMS_THRESHOLD)[:1],
        detector.config,
    )


def _split(output: DetectorOutput, batch: Batch) -> list[ImagePredictions]:
    """Each image's detections in original pixels."""
    judged = (output.scores, output.class_scores, output.ious, output.purities, output.integrities)
    columns = [None if value is None else value.float().cpu().numpy() for value in judged]
    boxes, labels = output.boxes.float().cpu().numpy(), output.labels.cpu().numpy()
    masks = None if output.masks is None else output.masks.float().cpu().numpy()
    counts = output.num_detections.tolist()
    images = []
    for index, (image_id, boxed) in enumerate(zip(batch.image_ids, batch.letterboxed, strict=True)):
        kept = slice(0, counts[index])
        scores, class_scores, ious, purities, integrities = (
            None if c is None else c[index, kept] for c in columns
        )
        assert scores is not None and class_scores is not None
        in_original = boxes_to_original(boxes[index, kept], boxed)
        coded = None if masks is None else encode_masks(masks[index, kept], in_original, boxed.original_hw)
        images.append(
            ImagePredictions(
                image_id,
                in_original,
                labels[index, kept],
                scores,
                class_scores,
                ious,
                purities,
                integrities,
                coded,
            )
        )
    return images


def _rows_before_nms(candidates: Candidates, batch: Batch) -> list[LocalizationRows]:
    """The rows of the population, an entry an image; in input pixels: overlaps do not depend on scale.

    NaN where the detector does not say.
    """
    boxes = candidates.boxes.float().cpu().numpy()  # [B, D, 4] or, one per class, [B, D, C, 4]
    scores = candidates.class_scores.float().cpu().numpy()
    unknown = np.full(scores.shape[:2], np.nan)
    judged = (candidates.ious, candidates.purities, candidates.integrities)
    qualities = [unknown if part is None else part.float().cpu().numpy() for part in judged]
    parts = []
    for index, target in enumerate(batch.targets):
        row, label = np.nonzero(scores[index] > MIN_CLASS_SCORE)
        ious, purities, integrities = (part[index][row] for part in qualities)
        parts.append(
            match_rows(
                boxes[index][row] if boxes.ndim == 3 else boxes[index][row, label],
                label,
                scores[index][row, label],
                (ious, purities, integrities),
                target.boxes.numpy(),
                target.labels.numpy(),
            )
        )
    return parts
