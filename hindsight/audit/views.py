"""One image asked about in several ways: mirrored, and with its annotated boxes nudged.

What a model says of one object differs a little from view to view, and part of that is chance: the mean of
several views is nearer the truth than one. And where the head thinks better of a box that is a little larger,
or a little to the left, the annotation is probably too small, or too far right.

n: annotations of an image; d: the model's own boxes; k: NUDGED, an annotation and its nudged copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.overlap import pairwise_iou

__all__ = ["NUDGED", "VIEWS", "View", "clusters", "nudged", "steadiness"]

FloatArray = NDArray[np.float32]
Array = NDArray[np.float64]

_SAME = 0.6  # IoU from which boxes of two views are of one object
_KEEN = 0.1  # a copy whose predicted IoU is this much lower counts 1/e as much


@dataclass(frozen=True, slots=True)
class View:
    """across: mirrored left to right; down: top to bottom."""

    across: bool
    down: bool

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`image` [H, W, 3] as this view shows it."""
        return np.ascontiguousarray(image[:: -1 if self.down else 1, :: -1 if self.across else 1])

    def boxes(self, boxes: NDArray[Any], image_hw: tuple[int, int]) -> Array:
        """Where `boxes` [n, 4] xyxy of the image are in the view, or those of the view in the image."""
        height, width = image_hw
        x1, y1, x2, y2 = boxes.astype(np.float64).T  # a sliver must not vanish by rounding
        if self.across:
            x1, x2 = width - x2, width - x1
        if self.down:
            y1, y2 = height - y2, height - y1
        return np.stack([x1, y1, x2, y2], axis=1)


# Looked at are the first few.
VIEWS = (View(False, False), View(True, False), View(False, True), View(True, True))


def clusters(
    boxes: FloatArray, labels: NDArray[np.int64], scores: FloatArray, views: NDArray[np.int64]
) -> Iterator[list[int]]:
    """Rows that are one object: of one label, at most one of each view, all of them near the best of them.

    boxes [d, 4], labels, scores [d]; views [d]: the one that a row is from. Every row is in one cluster; the
    best choose first.
    """
    overlap = pairwise_iou(boxes, boxes)
    alike = (overlap >= _SAME) & (labels[:, None] == labels[None])
    free = np.ones(len(boxes), np.bool_)
    for row in np.argsort(-scores, kind="stable").tolist():
        if not free[row]:
            continue
        members = [row]
        for view in np.unique(views[free & alike[row]]).tolist():
            near = np.flatnonzero(free & alike[row] & (views == view))
            if view != views[row]:
                members.append(int(near[overlap[row, near].argmax()]))
        free[members] = False
        yield members


def _nudges() -> Array:
    """[k, 4] what is added to x1, y1, x2, y2, in parts of the box's width or height."""
    rows = [np.zeros(4)]
    for step in (0.12, 0.25):  # one edge, out and in
        rows += [sign * step * edge for edge in np.eye(4) for sign in (-1, 1)]
    rows += [step * np.array([-1.0, -1, 1, 1]) for step in (-0.08, 0.08)]  # all of them
    rows += [0.12 * np.array([x, y, x, y], np.float64) for x in (-1, 1) for y in (-1, 1)]  # moved
    return np.array(rows)


_NUDGES = _nudges()
NUDGED = len(_NUDGES)


def nudged(boxes: NDArray[Any], image_hw: tuple[int, int]) -> Array:
    """[n, k, 4]: each of `boxes` [n, 4] xyxy, then its copies with an edge moved out or in, all edges, or the
    whole box moved; cut at the edge of the image.
    """
    height, width = image_hw
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    copies = boxes[:, None].astype(np.float64) + _NUDGES * sides[:, None]
    inside: Array = np.clip(copies, 0, [width, height, width, height])
    return inside


def steadiness(copies: Array, ious: FloatArray) -> FloatArray:
    """[n] the IoU of each annotation with the mean of its `copies` [n, k, 4], itself the first, each with a
    weight that grows with its predicted IoU, `ious` [n, k]. 1: the head would not have it elsewhere.
    """
    weights = np.exp((ious - ious.max(axis=1, keepdims=True)).astype(np.float64) / _KEEN)
    liked = (copies * weights[..., None]).sum(axis=1) / weights.sum(axis=1)[:, None]
    return np.array(
        [pairwise_iou(own[:1], mean[None])[0, 0] for own, mean in zip(copies, liked, strict=True)], np.float32
    )
