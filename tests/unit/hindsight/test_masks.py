"""Masks in the light core: pasted into the image, and kept in order with their boxes."""

from __future__ import annotations

import numpy as np
import pytest

from hindsight.detections import Detections
from hindsight.masks import paste_mask


def test_a_mask_of_one_pixel_a_cell_is_pasted_as_it_is() -> None:
    cells = (np.random.default_rng(0).random((7, 7)) < 0.5).astype(np.float32)
    bitmap = paste_mask(cells, np.array([3, 5, 10, 12], np.float32), (20, 15))
    assert bitmap.shape == (20, 15)
    np.testing.assert_array_equal(bitmap[5:12, 3:10], cells == 1)
    bitmap[5:12, 3:10] = False
    assert not bitmap.any()


def test_cells_are_interpolated_between_their_centres() -> None:
    cells = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)
    bitmap = paste_mask(cells, np.array([0, 0, 8, 8], np.float32), (8, 8))
    assert bitmap.all(axis=0).tolist() == [False] * 4 + [True] * 4
    assert paste_mask(cells, np.array([0, 0, 8, 8], np.float32), (8, 8), 0.9).all(axis=0).sum() == 2


def test_what_lies_outside_the_image_is_cut() -> None:
    whole = np.ones((4, 4), np.float32)
    assert paste_mask(whole, np.array([-5, -5, 3, 2], np.float32), (10, 10)).sum() == 6
    assert not paste_mask(whole, np.array([20, 20, 30, 30], np.float32), (10, 10)).any()
    assert not paste_mask(whole, np.array([4, 4, 4, 4], np.float32), (10, 10)).any()


def detections(masks: np.ndarray | None) -> Detections:
    columns = [np.array([0.9, 0.8], np.float32) for _ in range(2)]
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3]], np.float32)
    return Detections(boxes, np.array([0, 1]), *columns, None, None, None, ("a", "b"), (4, 4), masks)


def test_masks_follow_their_rows() -> None:
    masks = np.stack([np.zeros((3, 3)), np.ones((3, 3))]).astype(np.float32)
    found = detections(masks).select([1])
    assert found.masks is not None and found.masks.shape == (1, 3, 3) and found.masks.all()
    assert detections(None).select([True, False]).masks is None
    with pytest.raises(ValueError, match=r"expected masks \[2, m, m\], got \[1, 3, 3\]"):
        detections(masks[:1])
