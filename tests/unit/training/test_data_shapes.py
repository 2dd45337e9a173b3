"""Polygons and run-length codes: read, refused by name, moved with their image, drawn as pycocotools does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as reference

from hindsight.artifact import ResizeRule
from hindsight.datasets.shapes import NOTHING, Shape, read_shape
from tests.unit.training.data_sets import coco_document, voc_object, write_coco, write_voc
from training.data import Augment, DatasetError, TrainLoader, collate, open_dataset, prepare
from training.data.transforms import hflip, rot90, vflip

W, H = 64, 48
RULE = ResizeRule(H, W)
# annotation 1's box is (4, 6, 14, 18): a triangle in it, and a separate square
TRIANGLE, SQUARE = [4.0, 6.0, 12.0, 6.0, 4.0, 16.0], [11, 15, 14, 15, 14, 18, 11, 18]


def blob(seed: int = 0) -> NDArray[np.uint8]:
    """A ragged bitmap of the image with holes and islands."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((H // 4, W // 4)) < 0.4
    return coarse.repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8) & (rng.random((H, W)) < 0.95)


def counts_of(bitmap: NDArray[np.uint8]) -> list[int]:
    """Runs down the columns, zeros first."""
    flat = bitmap.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [flat[-1] ^ 1]])))
    return [int(n) for n in np.diff(np.concatenate([[0], edges]))]


def drawn(shape: Shape, hw: tuple[int, int] = (H, W)) -> NDArray[np.uint8]:
    """The shape on a canvas of the image's size."""
    bitmap, (x1, y1, x2, y2) = shape.bitmap(hw)
    canvas = np.zeros(hw, np.uint8)
    canvas[y1:y2, x1:x2] = bitmap
    return canvas


def masked_document() -> dict[str, Any]:
    document = coco_document()
    document["annotations"][0]["segmentation"] = [TRIANGLE, SQUARE]
    document["annotations"][1]["segmentation"] = {"size": [H, W], "counts": counts_of(blob())}
    document["annotations"][2]["segmentation"] = {"size": [H, W], "counts": [H * W]}
    return document


@pytest.mark.parametrize("seed", range(3))
def test_run_length_codes_of_both_kinds_are_the_bitmap_they_code(seed: int) -> None:
    bitmap = blob(seed)
    plain = read_shape({"size": [H, W], "counts": counts_of(bitmap)}, (W, H), 1.0)
    np.testing.assert_array_equal(drawn(plain), bitmap)
    compressed = reference.encode(np.asfortranarray(bitmap))["counts"].decode()
    np.testing.assert_array_equal(
        drawn(read_shape({"size": [H, W], "counts": compressed}, (W, H), 1.0)), bitmap
    )


def test_a_polygon_covers_the_pixels_whose_centres_it_holds() -> None:
    square, thin, edge = (
        [x, a, x + 4, a, x + 4, b, x, b] for x, a, b in ((2, 1, 4), (20, 5.6, 6.4), (30, 8.5, 9.5))
    )
    expected = np.zeros((H, W), np.uint8)
    expected[1:4, 2:6] = 1  # and nothing of the thin one, which passes between the centres of two rows
    expected[8, 30:34] = 1  # of two rows whose centres lie on its edges, the first
    np.testing.assert_array_equal(drawn(read_shape([square, thin, edge], (W, H), 1.0)), expected)
    bitmap, frame = read_shape([thin], (W, H), 1.0).bitmap((H, W))
    assert frame == (20, 5, 24, 7) and not bitmap.any()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_polygons_agree_with_pycocotools_on_real_annotations(data_dir: Path) -> None:
    document = json.loads((data_dir / "coco_mini" / "annotations" / "instances_val2017.json").read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    overlap = union = 0
    for entry in document["annotations"][:200]:
        width, height = sizes[entry["image_id"]]
        segmentation = entry["segmentation"]
        own = drawn(read_shape(segmentation, (width, height), 1.0), (height, width))
        if isinstance(segmentation, dict):
            segmentation = [reference.frPyObjects(segmentation, height, width)]
            assert np.array_equal(own, reference.decode(segmentation)[..., 0])
            continue
        coded = reference.frPyObjects(segmentation, height, width)
        theirs = reference.decode(reference.merge(coded))
        overlap, union = overlap + int((own & theirs).sum()), union + int((own | theirs).sum())
    assert overlap / union > 0.98  # they trace the outline, we ask for centres: only edges may differ


MOVES = {"hflip": (hflip, np.fliplr), "vflip": (vflip, np.flipud), "rot90": (lambda s: rot90(s, 1), np.rot90)}


@pytest.mark.parametrize("name", MOVES)
def test_shapes_move_with_the_pixels(tmp_path: Path, name: str) -> None:
    move, of_array = MOVES[name]
    dataset = open_dataset(write_coco(tmp_path, masked_document()), masks=True)
    for index in range(2):
        sample = dataset.load(index)
        moved = move(sample)
        assert sample.shapes is not None and moved.shapes is not None
        before, after = drawn(sample.shapes[0]), drawn(moved.shapes[0], moved.pixels.shape[:2])
        # a polygon's edge may pass exactly through centres, which belong to one side only
        assert (of_array(before) != after).sum() <= 2 * (index == 0)
        assert before.any()


def test_a_batch_holds_each_objects_bitmap_at_the_inputs_scale(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path, masked_document()), masks=True)
    batch = collate([prepare(dataset.load(i), ResizeRule(2 * H, 2 * W)) for i in range(2)])
    first, second = (target.masks for target in batch.targets)
    assert first is not None and second is not None
    assert first.frames.tolist() == [[8, 12, 28, 36]]
    canvas = drawn(Shape((np.array(TRIANGLE, np.float32).reshape(-1, 2) * 2,), NOTHING.boxes), (2 * H, 2 * W))
    canvas[30:36, 22:28] = 1
    assert torch.equal(first.pixels.reshape(24, 20), torch.from_numpy(canvas[12:36, 8:28]))
    assert len(second) == 1  # the crowd has none
    np.testing.assert_array_equal(
        drawn(read_shape(masked_document()["annotations"][1]["segmentation"], (W, H), 1.0)), blob()
    )


def test_masks_are_the_same_in_every_run(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path, masked_document()), masks=True)
    augment = Augment(hflip=0.5, vflip=0.5, rot90=True, scales=(32, 48))
    first, again = (next(TrainLoader(dataset, 2, RULE, augment, workers=w).epoch(3)) for w in (0, 2))
    for a, b in zip(first.targets, again.targets, strict=True):
        assert a.masks is not None and b.masks is not None
        assert torch.equal(a.masks.pixels, b.masks.pixels) and torch.equal(a.masks.frames, b.masks.frames)


def test_shapes_are_read_only_where_asked_for(tmp_path: Path) -> None:
    document = masked_document()
    document["annotations"][0]["segmentation"] = "nonsense"
    dataset = open_dataset(write_coco(tmp_path, document))
    assert dataset.load(0).shapes is None
    assert collate([prepare(dataset.load(0), RULE)]).targets[0].masks is None


BAD: list[tuple[Any, str]] = [
    (None, "segmentation is missing"),
    ([], "segmentation is [], expected polygons"),
    ("m", "segmentation is 'm', expected polygons"),
    ([[4, 6, 12, 6]], "polygon 1 has 4 numbers, expected x and y of 3 or more points"),
    ([TRIANGLE, [4, 6, 12, 6, 4]], "polygon 2 has 5 numbers"),
    ([[4, 6, 12, 6, "4", 16]], "polygon 1 is [4, 6, 12, 6, '4', 16], expected a list of numbers"),
    ([4, 6, 12, 6, 4, 16], "polygon 1 is 4, expected a list of numbers"),
    ([[4, 6, 12, 6, 4, float("nan")]], "polygon 1 holds a value that is not a number"),
    ([[4, 6, 12, 6, 4, 10**30]], "polygon 1 holds a value that is not a number"),
    ([[4, 6, 70, 6, 4, 16]], "a polygon reaches 6 px outside the 64x48 image"),
    ([[4, -3, 12, 6, 4, 16]], "a polygon reaches 3 px outside the 64x48 image"),
    (
        {"size": [W, H], "counts": [W * H]},
        "run-length code of size [64, 48] (height, width), the image has [48",
    ),
    ({"size": [H, W], "counts": [5, 7]}, "run-length counts add up to 12, the image has 3072 pixels"),
    ({"size": [H, W], "counts": [-1, W * H + 1]}, "run-length counts are [-1, 3073], expected whole numbers"),
    ({"size": [H, W]}, "run-length counts are None, expected whole numbers"),
    ({"size": [H, W], "counts": "\x01"}, "compressed run-length counts hold what is no code"),
    ({"size": [H, W], "counts": "P"}, "compressed run-length counts end in the middle of a number"),
]


@pytest.mark.parametrize(("segmentation", "message"), BAD)
def test_a_bad_shape_is_named_with_id_and_line(tmp_path: Path, segmentation: Any, message: str) -> None:
    document = masked_document()
    document["annotations"][0]["segmentation"] = segmentation
    path = write_coco(tmp_path, document)
    with pytest.raises(DatasetError) as caught:
        open_dataset(path, masks=True)
    (found,) = caught.value.problems
    assert found.message.startswith(f"annotation 1: {message}")
    assert found.line is not None and path.read_text().splitlines()[found.line - 1].strip() == "{"
    skipped = open_dataset(path, masks=True, skip_bad=True)
    assert len(skipped.annotations(0).boxes) == 0 == len(skipped.annotations(0).shapes or ())


def test_a_voc_folder_holds_no_masks(tmp_path: Path) -> None:
    folder = write_voc(tmp_path / "set", {"a": [voc_object("cell", 3, 4, 30, 40)]})
    with pytest.raises(DatasetError, match="masks are read from COCO files"):
        open_dataset(folder, masks=True)


def test_coco_minis_masks_are_read_whole(data_dir: Path) -> None:
    for split in ("train", "val"):
        path = data_dir / "coco_mini" / "annotations" / f"instances_{split}2017.json"
        dataset = open_dataset(path, masks=True)
        for index in range(len(dataset)):
            sample = dataset.annotations(index)
            assert sample.shapes is not None and len(sample.shapes) == len(sample.boxes)
