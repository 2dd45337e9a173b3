"""Masks in the light core: pasted into the image, and kept in order with their boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as reference

from hindsight.detections import Detections
from hindsight.masks import encode_bitmap, encode_mask, paste_mask

# pycocotools' own, as it decodes
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def reference_code(bitmap: np.ndarray) -> dict[str, object]:
    code = reference.encode(np.asfortranarray(bitmap, np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


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


@given(
    box=st.tuples(st.floats(-6, 14), st.floats(-6, 10), st.floats(0, 25), st.floats(0, 20)),
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_codes_are_those_of_cocos_tools(
    box: tuple[float, float, float, float], seed: int, share: float
) -> None:
    """Empty, full, touching any edge of the image: they decode to what is pasted, in the same characters."""
    x, y, width, height = box
    xyxy = np.array([x, y, x + width, y + height], np.float32)
    cells = (np.random.default_rng(seed).random((5, 5)) < share).astype(np.float32)
    bitmap = paste_mask(cells, xyxy, (12, 16))
    code = encode_mask(cells, xyxy, (12, 16))
    assert code == reference_code(bitmap)
    np.testing.assert_array_equal(reference.decode(code), bitmap)


@given(
    frame=st.tuples(st.integers(0, 12), st.integers(0, 16), st.integers(0, 12), st.integers(0, 16)),
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_codes_of_bitmaps_are_those_of_cocos_tools(
    frame: tuple[int, int, int, int], seed: int, share: float
) -> None:
    """Anywhere in the image, down to no row or no column."""
    top, left, height, width = frame
    whole = np.zeros((12, 16), np.bool_)
    patch = whole[top : top + height, left : left + width]
    patch[:] = np.random.default_rng(seed).random(patch.shape) < share
    assert encode_bitmap(patch, top, left, (12, 16)) == reference_code(whole)


def test_a_code_of_a_large_image_is_that_of_its_bitmap() -> None:
    """Numbers of several characters, negative differences among them."""
    cells = np.tri(28, dtype=np.float32)
    xyxy = np.array([100.5, 200.25, 2100, 1900], np.float32)
    np.testing.assert_array_equal(
        reference.decode(encode_mask(cells, xyxy, (2000, 3000))), paste_mask(cells, xyxy, (2000, 3000))
    )


def test_records_hold_the_code_where_there_are_masks() -> None:
    assert all("segmentation" not in record for record in detections(None).to_records())
    first, second = detections(np.ones((2, 7, 7), np.float32)).to_records()
    assert first["segmentation"] == {"size": [4, 4], "counts": "02208"}
    assert first["segmentation"] != second["segmentation"]


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
