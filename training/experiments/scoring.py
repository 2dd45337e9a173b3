"""From a frozen host and its heads to the table of what each says of the same boxes.

D: boxes of an image, one for each proposal; n: those that pass the class threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hindsight.artifact import ResizeRule
from hindsight.preprocess import boxes_to_original
from model.detector import TwoStageDetector
from training.data import Batch, Dataset, EvalLoader
from training.evaluation.predict import CLASS_THRESHOLD, evaluating
from training.experiments.heads import BOX, HEADS, PROPOSAL, head_of
from training.experiments.table import QUALITIES, RowTable, fingerprint

Part = dict[str, NDArray[Any]]


def write_table(
    detector: TwoStageDetector,
    heads: nn.ModuleDict,
    test_set: Dataset,
    rule: ResizeRule,
    path: Path,
    made_from: Mapping[str, Any],
    *,
    batch_size: int = 4,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> RowTable:
    """Score every box of every test image with every head on both kinds of features, and save the table."""
    samples = [test_set.annotations(index) for index in range(len(test_set))]
    place = {sample.image_id: index for index, sample in enumerate(samples)}
    parts: list[Part] = []
    with evaluating(detector):
        for batch in EvalLoader(test_set, batch_size, rule):
            parts += _score(detector, heads, batch, [place[i] for i in batch.image_ids], device)
            if progress is not None:
                progress(len(batch))
    parts.sort(key=lambda part: int(part["place"][0]))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "place"}
    fixed = {name: columns.pop(name) for name in ("image", "boxes", "proposals", "class_scores")}
    table = RowTable(
        **fixed,
        judged=columns,
        truth_image=np.concatenate([np.full(len(s.labels), i, np.int64) for i, s in enumerate(samples)]),
        truth_boxes=np.concatenate([s.boxes for s in samples]),
        truth_labels=np.concatenate([s.labels for s in samples]),
        truth_crowd=np.concatenate([s.crowd for s in samples]),
        image_ids=np.array([s.image_id for s in samples], np.int64),
        made_from=fingerprint(made_from),
    )
    table.save(path)
    return table


def _score(
    detector: TwoStageDetector, heads: nn.ModuleDict, batch: Batch, places: list[int], device: str
) -> list[Part]:
    """Rows of each image; every box counts, whatever `boxes_at_inference` is."""
    images, sizes = batch.images.to(device), batch.image_sizes.to(device)
    pyramid = detector.extract(images, sizes)
    rois = detector.rois(pyramid)
    refined = detector.head.refine(rois, detector.propose(pyramid, images, sizes), sizes, None)
    if refined.boxes.dim() != 3:
        raise ValueError("the heads judge one box a proposal: the host's regression must be class-agnostic")
    pooled = {BOX: rois.fixed(refined.boxes), PROPOSAL: rois.fixed(refined.sources)}
    shape = refined.boxes.shape[:2]
    judged = {}
    for name in HEADS:
        for features, seen in pooled.items():
            if not _wanted(name, features):
                continue
            for quality, value in zip(QUALITIES, head_of(heads, name)(seen), strict=True):
                if value is not None:
                    judged[f"{name}/{features}/{quality}"] = value.float().reshape(shape).cpu().numpy()
    scores = refined.class_scores.float().cpu().numpy()
    boxes, sources = (value.float().cpu().numpy() for value in (refined.boxes, refined.sources))
    parts = []
    for index, (place, boxed) in enumerate(zip(places, batch.letterboxed, strict=True)):
        rows = np.flatnonzero(scores[index].max(axis=1) > CLASS_THRESHOLD)
        part: Part = {
            "place": np.array([place]),
            "image": np.full(len(rows), place, np.int64),
            "boxes": boxes_to_original(boxes[index, rows], boxed),
            "proposals": boxes_to_original(sources[index, rows], boxed),
            "class_scores": scores[index, rows],
        }
        parts.append(part | {name: value[index, rows] for name, value in judged.items()})
    return parts


def _wanted(name: str, features: str) -> bool:
    """Features that a head was not trained on matter for purity and integrity only: that is claim 4."""
    kind, own = HEADS[name]
    return features == own or kind == "purity_integrity"
