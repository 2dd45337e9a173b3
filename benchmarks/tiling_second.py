"""A second opinion across tiles: what the tile that shows the place of a cut box whole thinks of that box.

Instead of geometry's word the model's: a part of an object gets a low integrity from a tile in which the
object goes on. It costs a pass of rescore.onnx for each tile beside its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.tiling_mosaics import SIDE, Mosaic
from hindsight.api import Detector
from hindsight.detections import Detections
from hindsight.tiling import crop, pool

__all__ = ["second_opinions"]


def second_opinions(
    detector: Detector, mosaic: Mosaic, windows: NDArray[np.int64], found: Sequence[Detections]
) -> list[Detections]:
    """`found`, but with IoU, purity, integrity and score of cut boxes as another tile sees them, where there
    is one that shows their place whole: of those the one in which they lie farthest from its edges.
    """
    image_hw = (SIDE, SIDE)
    judge = [np.full(len(each), -1) for each in found]
    for home, each in enumerate(found):
        alone = pool([each], windows[home][None], image_hw)
        sizes = (each.boxes[:, 2:] - each.boxes[:, :2]).min(axis=1, initial=np.inf)
        for row in np.flatnonzero(alone.cut & (sizes >= 1)):  # pixels: of less there is nothing to say
            judge[home][row] = _most_central(alone.detections.boxes[row], windows, home)
    changed = list(found)
    for place, window in enumerate(windows):
        asked = [(home, row) for home in range(len(found)) for row in np.flatnonzero(judge[home] == place)]
        if not asked:
            continue
        shift = np.tile(window[:2], 2)
        boxes = np.array([found[home].boxes[row] + np.tile(windows[home, :2], 2) for home, row in asked])
        judged = detector.rescore(crop(mosaic.pixels, window), boxes - shift)
        assert judged.purities is not None and judged.integrities is not None
        for number, (home, row) in enumerate(asked):
            changed[home] = _with(
                changed[home],
                int(row),
                float(judged.ious[number]),
                float(judged.purities[number]),
                float(judged.integrities[number]),
            )
    return changed


def _most_central(box: NDArray[np.float32], windows: NDArray[np.int64], home: int) -> int:
    gaps = np.concatenate([box[:2] - windows[:, :2], windows[:, 2:] - box[2:]], axis=1).astype(np.float64)
    gaps[(gaps >= 0) & (windows == np.array([0, 0, SIDE, SIDE]))] = np.inf  # the image's own edges
    least = gaps.min(axis=1)
    least[home] = -1
    return int(least.argmax()) if least.max() > 0 else -1


def _with(found: Detections, row: int, iou: float, purity: float, integrity: float) -> Detections:
    assert found.ious is not None and found.purities is not None and found.integrities is not None
    scores, ious = found.scores.copy(), found.ious.copy()
    purities, integrities = found.purities.copy(), found.integrities.copy()
    ious[row], purities[row], integrities[row] = iou, purity, integrity
    scores[row] = (found.class_scores[row] * iou) ** 0.5
    return replace(found, scores=scores, ious=ious, purities=purities, integrities=integrities)
