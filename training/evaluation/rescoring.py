"""How well the localization head judges ANY box, not only its detector's own: the question /rescore answers.

Every ground truth is moved and stretched into boxes whose true IoU is spread evenly over .1 to 1, the head
judges them, and the error is reported per tenth of true IoU. The draw depends on the image's id alone, so
every model gets the same boxes.

n: boxes; g: ground truths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.overlap import Array, overlap_with, pairwise_iou
from hindsight.preprocess import boxes_to_input
from training.data.batch import Batch
from training.data.dataset import Dataset
from training.evaluation.localization import error_per_decile, mean_absolute_error, pearson

BOXES_PER_TRUTH = 8
MIN_IOU = 0.1
POPULATION = (
    f"{BOXES_PER_TRUTH} jittered copies of every ground truth, IoU with it spread evenly over {MIN_IOU:g}-1, "
    "clipped to the image; truth = the ground truth of highest IoU, any class"
)
_HALVINGS = 40
_REACH = 8.0  # as far along a direction as any box needs to go to leave its ground truth


class Rescoring:
    """Draws the boxes of each batch, takes what a head says about them, and reports.

    For every batch `draw`, then `add`.
    """

    def __init__(self, dataset: Dataset) -> None:
        samples = [dataset.annotations(index) for index in range(len(dataset))]
        self._truths = {sample.image_id: sample.boxes[~sample.crowd] for sample in samples}
        self._drawn: list[NDArray[np.float32]] = []
        self._predicted, self._true = [np.zeros((3, 0))], [np.zeros((3, 0))]

    def draw(self, batch: Batch) -> list[NDArray[np.float32]]:
        """Boxes to judge in input pixels, an array [n, 4] an image."""
        images = list(zip(batch.image_ids, batch.letterboxed, strict=True))
        self._drawn = [jittered_boxes(self._truths[i], boxed.original_hw, i) for i, boxed in images]
        return [boxes_to_input(boxes, boxed) for boxes, (_, boxed) in zip(self._drawn, images, strict=True)]

    def add(self, batch: Batch, qualities: Sequence[NDArray[Any]]) -> None:
        """ious, purities, integrities [B, at least the most boxes of an image] of the boxes just drawn."""
        for index, (image_id, boxes) in enumerate(zip(batch.image_ids, self._drawn, strict=True)):
            if len(boxes):
                truths = self._truths[image_id]
                best = pairwise_iou(boxes, truths).argmax(axis=1)
                self._true.append(np.stack(overlap_with(boxes, truths[best])))
                said = [part[index, : len(boxes)].astype(np.float64) for part in qualities]
                self._predicted.append(np.stack(said))

    def report(self) -> dict[str, Any]:
        """JSON values over all that was added."""
        return _summary(np.concatenate(self._predicted, axis=1), np.concatenate(self._true, axis=1))


def _summary(predicted: Array, true: Array) -> dict[str, Any]:
    """JSON values from [3, n] predicted and true IoU, purity, integrity."""
    names = ("iou", "purity", "integrity")
    return {
        "population": POPULATION,
        "n": predicted.shape[1],
        "pearson": {name: pearson(predicted[row], true[row]) for row, name in enumerate(names)},
        "mean_absolute_error": {
            name: mean_absolute_error(predicted[row], true[row]) for row, name in enumerate(names)
        },
        "error_per_iou_decile": error_per_decile(predicted[0], true[0]),
    }


def jittered_boxes(truths: NDArray[Any], image_hw: tuple[int, int], image_id: int) -> NDArray[np.float32]:
    """[g * BOXES_PER_TRUTH, 4] xyxy inside the image of `image_hw`, from ground truths [g, 4]."""
    rng = np.random.default_rng([image_id])
    source = np.repeat(truths.astype(np.float64), BOXES_PER_TRUTH, axis=0)
    wanted = rng.uniform(MIN_IOU, 1.0, size=len(source))
    direction = rng.normal(size=(len(source), 4))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    # The further along a direction, the lower the IoU: halve the interval until the wanted one is reached.
    low, high = np.zeros(len(source)), np.full(len(source), _REACH)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        far = overlap_with(_moved(source, direction * middle[:, None]), source).iou < wanted
        low, high = np.where(far, low, middle), np.where(far, middle, high)
    height, width = image_hw
    boxes = np.clip(_moved(source, direction * low[:, None]), 0, [width, height, width, height])
    return boxes.astype(np.float32)


def _moved(boxes: Array, change: Array) -> Array:
    """Boxes [n, 4] shifted by change[:, :2] of their size and stretched by exp(change[:, 2:])."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2 + 0.5 * change[:, :2] * size
    half = size * np.exp(0.5 * change[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=1)
