"""Which box of an object that several tiles show is believed; and `detect` in tiles, against the tiny model,
whose boxes are the squares of 32 pixels that each pass is divided into (factories.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import hindsight
from hindsight import api
from hindsight.detections import Detections
from hindsight.errors import ImageTooLarge, OptionError, UnsupportedImage
from hindsight.manifest import ResizeRule
from hindsight.tiling import MOST_WINDOWS, Tiling, crop, merge, pool
from tests.factories import encode, make_tiny_artifact, tiles_image

SIDE = 96  # of the model's input, and of a tile here: nothing is scaled
LEFT, RIGHT = [0, 0, 100, 100], [70, 0, 170, 100]  # two tiles of an image of 170 x 100
IMAGE_HW = (100, 170)


def found(*rows: tuple[list[float], float], labels: list[int] | None = None) -> Detections:
    """Boxes in pixels of their tile, with their scores."""
    boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in rows], np.float32)
    kinds = np.array(labels or [0] * len(rows), np.int64)
    return Detections(boxes, kinds, scores, scores, None, None, None, ("a", "b"), (100, 100))


def merged(
    left: Detections, right: Detections, *more: tuple[Detections, list[int]]
) -> list[tuple[list[float], float]]:
    windows = np.array([LEFT, RIGHT, *(window for _, window in more)], np.int64)
    each = [left, right, *(one for one, _ in more)]
    answer = merge(each, windows, IMAGE_HW, nms_threshold=0.5)
    return [
        (box.tolist(), round(float(score), 3)) for box, score in zip(answer.boxes, answer.scores, strict=True)
    ]


def test_an_object_that_two_tiles_show_whole_is_found_once_by_the_better_box() -> None:
    answer = merged(found(([75, 20, 95, 40], 0.7)), found(([5, 20, 26, 40], 0.9)))
    assert answer == [([75, 20, 96, 40], 0.9)]


def test_the_tile_that_shows_it_whole_is_believed_however_sure_the_other_is() -> None:
    part, whole = found(([80, 20, 100, 40], 0.99)), found(([10, 20, 60, 40], 0.4))
    assert merged(part, whole) == [([80, 20, 130, 40], 0.4)]


def test_a_part_of_what_the_other_tile_did_not_find_goes_too() -> None:
    assert merged(found(([80, 20, 100, 40], 0.9)), found()) == []


def test_a_part_is_kept_where_no_tile_shows_more_of_it() -> None:
    part = ([40.0, 20.0, 100.0, 40.0], 0.9)  # begins left of the right tile
    assert merged(found(part), found()) == [part]


def test_two_parts_of_one_object_count_once_where_one_is_mostly_in_the_other() -> None:
    left, right = found(([40, 20, 100, 40], 0.6)), found(([0, 20, 36, 40], 0.8))
    assert merged(left, right) == [([70, 20, 106, 40], 0.8)]


def test_a_box_at_the_images_own_edge_is_whole() -> None:
    edge = ([0.0, 0.0, 30.0, 30.0], 0.9)
    assert merged(found(edge), found()) == [edge]


def test_the_whole_image_answers_for_what_is_larger_than_a_tile() -> None:
    whole = found(([10, 10, 160, 90], 0.5))
    left, right = found(([10, 10, 100, 90], 0.9)), found(([0, 10, 90, 90], 0.8))
    assert merged(left, right, (whole, [0, 0, 170, 100])) == [([10, 10, 160, 90], 0.5)]


def test_the_whole_image_is_not_asked_where_a_tile_shows_the_place() -> None:
    small = found(([20, 20, 40, 40], 0.99))  # at a fraction of its size, where models see what is not there
    assert merged(found(), found(), (small, [0, 0, 170, 100])) == []
    at_the_edge = ([90.0, 20.0, 105.0, 40.0], 0.5)  # of the left tile; the right one shows it whole
    assert merged(found(), found(), (found(at_the_edge), [0, 0, 170, 100])) == []


def test_classes_do_not_suppress_each_other() -> None:
    box = [75.0, 20.0, 95.0, 40.0]
    answer = merged(found((box, 0.7)), found(([5, 20, 25, 40], 0.9), labels=[1]))
    assert answer == [(box, 0.9), (box, 0.7)]


def test_what_is_cut_and_what_another_tile_shows() -> None:
    left = found(([80, 20, 100, 40], 0.9), ([40, 20, 100, 40], 0.9), ([75, 20, 95, 40], 0.9))
    pooled = pool([left, found()], np.array([LEFT, RIGHT], np.int64), IMAGE_HW)
    assert pooled.cut.tolist() == [True, True, False]
    assert pooled.seen.tolist() == [True, False, False], "tiles are equals: what is whole needs no other"


def test_masks_and_opinions_stay_with_their_boxes() -> None:
    def one(value: float, box: list[float]) -> Detections:
        column = np.array([value], np.float32)
        boxes = np.array([box], np.float32)
        masks = np.full((1, 2, 2), value, np.float32)
        return Detections(
            boxes, np.zeros(1, np.int64), column, column, column, column, column, ("a",), (100, 100), masks
        )

    windows = np.array([LEFT, RIGHT], np.int64)
    answer = merge([one(0.25, [0, 0, 9, 9]), one(0.5, [50, 0, 59, 9])], windows, IMAGE_HW, nms_threshold=0.5)
    assert answer.masks is not None and answer.ious is not None and answer.integrities is not None
    assert answer.boxes.tolist() == [[120, 0, 129, 9], [0, 0, 9, 9]]
    assert (
        answer.masks[:, 0, 0].tolist() == answer.ious.tolist() == answer.integrities.tolist() == [0.5, 0.25]
    )


def test_each_window_needs_its_findings() -> None:
    with pytest.raises(ValueError, match="2 windows"):
        merge([found()], np.array([LEFT, RIGHT], np.int64), IMAGE_HW, nms_threshold=0.5)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"tile": 31}, "at least 32"),
        ({"tile": 0}, "at least 32"),
        ({"tile": -640}, "at least 32"),
        ({"tile": 640.0}, "whole number"),
        ({"tile": True}, "whole number"),
        ({"tile": "640"}, "whole number"),
        ({"tile": 640, "overlap": -0.1}, "0..0.9"),
        ({"tile": 640, "overlap": 0.91}, "0..0.9"),
        ({"tile": 640, "overlap": float("nan")}, "0..0.9"),
        ({"tile": 640, "overlap": "much"}, "0..0.9"),
        ({"tile": 640, "overlap": True}, "0..0.9"),
        ({"tile": 640, "overlap": np.ones(2)}, "0..0.9"),
        ({"tile": 640, "whole": 1}, "true or false"),
        ({"overlap": 0.2}, "give tile"),
        ({"whole": False}, "give tile"),
    ],
)
def test_what_cannot_be_asked_for_is_named(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Tiling.resolve(**asked)


def test_defaults_and_numpys_numbers() -> None:
    assert Tiling.resolve() is None
    assert Tiling.resolve(640) == Tiling(640, 0.2, True)
    assert Tiling.resolve(np.int64(64), np.float32(0.5), False) == Tiling(64, 0.5, False)


def test_more_tiles_than_anybody_means_are_refused() -> None:
    image_hw = (5000, 8000)
    assert Tiling(32, 0.9).count(image_hw) > MOST_WINDOWS
    with pytest.raises(OptionError, match=r"8000 x 5000 .* at most 4096"):
        Tiling(32, 0.9).windows(image_hw)


def test_a_crop_does_not_hold_the_image() -> None:
    pixels = np.zeros((50, 40, 3), np.uint8)
    assert crop(pixels, np.array([0, 10, 40, 20])).base is None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rule = ResizeRule(SIDE, SIDE, 32)
    return make_tiny_artifact(tmp_path_factory.mktemp("models") / "tiny", resize=rule, max_detections=5).path


@pytest.fixture
def detector(model: Path) -> Iterator[hindsight.Detector]:
    with hindsight.load(model, threads=1) as loaded:
        yield loaded


def squares(*corners: tuple[int, int], hw: tuple[int, int] = (2 * SIDE, 3 * SIDE)) -> NDArray[np.uint8]:
    """Black, with red squares of 32 pixels at these (x, y)."""
    image = np.zeros((*hw, 3), np.uint8)
    for x, y in corners:
        image[y : y + 32, x : x + 32, 0] = 255
    return image


def boxes_of(answer: Detections) -> list[list[float]]:
    return sorted(answer.boxes.tolist())


def test_tiles_find_what_one_pass_does_not(detector: hindsight.Detector) -> None:
    image = squares((32, 32), (128, 0), (256, 160))
    expected = [[32, 32, 64, 64], [128, 0, 160, 32], [256, 160, 288, 192]]
    assert boxes_of(detector.detect(image, score_threshold=0.8)) == []
    answer = detector.detect(image, tile=SIDE, overlap=0, score_threshold=0.8)
    assert boxes_of(answer) == expected and answer.image_hw == (2 * SIDE, 3 * SIDE)
    assert answer.ious is not None and answer.ious == pytest.approx([0.8] * 3)


def test_an_image_that_fits_into_a_tile_is_answered_as_without(detector: hindsight.Detector) -> None:
    image = tiles_image(90, 96)
    for tile in (96, 500):
        tiled = detector.detect(image, tile=tile)
        assert tiled.to_records() == detector.detect(image).to_records() != []


def test_each_tile_has_the_models_own_limit_and_the_answer_what_is_asked(
    detector: hindsight.Detector,
) -> None:
    image = np.full((2 * SIDE, 3 * SIDE, 3), 255, np.uint8)
    assert len(detector.detect(image)) == 5
    grid = {"tile": SIDE, "overlap": 0.0, "whole": False}
    assert len(detector.detect(image, **grid)) == 6 * 5
    assert len(detector.detect(image, **grid, max_detections=20)) == 20
    with pytest.raises(OptionError, match=r"max_detections .* 1\.\.5"):
        detector.detect(image, max_detections=20)


def test_tiles_go_through_the_model_a_few_at_a_time(
    detector: hindsight.Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_TILES_TOGETHER", 4)
    detect = detector._runtime.detect
    sizes: list[int] = []

    def counting(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        sizes.append(len(inputs["images"]))
        return detect(inputs)

    monkeypatch.setattr(detector._runtime, "detect", counting)
    detector.detect(squares((32, 32)), tile=SIDE, overlap=0.0, whole=False)
    assert sizes == [4, 2]


def test_several_images_each_in_its_own_tiles(detector: hindsight.Detector) -> None:
    images = [squares((32, 32)), squares((128, 0)), tiles_image(90, 96)]
    together = detector.detect_batch(images, tile=SIDE, overlap=0.0)
    alone = [detector.detect(image, tile=SIDE, overlap=0.0) for image in images]
    assert [each.to_records() for each in together] == [each.to_records() for each in alone]


def test_classes_and_a_model_without_second_opinion(tmp_path: Path) -> None:
    rule = ResizeRule(SIDE, SIDE, 32)
    plain = make_tiny_artifact(tmp_path / "plain", name="plain", localization=False, resize=rule)
    image = squares((32, 32))
    image[0:32, 128:160, 1] = 255
    with hindsight.load(plain.path, threads=1) as detector:
        answer = detector.detect(image, tile=SIDE, overlap=0.0, classes=["green"], score_threshold=0.8)
    assert answer.names == ("green",) and answer.ious is None


def test_masks_come_along(tmp_path: Path) -> None:
    rule = ResizeRule(SIDE, SIDE, 32)
    masked = make_tiny_artifact(tmp_path / "masked", name="masked", masks=True, resize=rule)
    with hindsight.load(masked.path, threads=1) as detector:
        answer = detector.detect(squares((128, 32)), tile=SIDE, overlap=0.0, score_threshold=0.8)
    [record] = answer.to_records()
    assert record["box"] == [128, 32, 160, 64] and record["segmentation"]["size"] == [192, 288]


def test_options_are_checked_before_the_image_is_read(detector: hindsight.Detector, tmp_path: Path) -> None:
    for options in ({"tile": 5}, {"overlap": 0.1}, {"tile": 96, "score_threshold": 2}, {"passes": 3}):
        with pytest.raises(OptionError):
            detector.detect(tmp_path / "none.png", **options)
        with pytest.raises(OptionError):
            api.resolve_options(detector.artifact.manifest, **options)
    api.resolve_options(detector.artifact.manifest, tile=96, overlap=0.1, whole=False, max_detections=1000)


def test_what_is_wrong_with_a_file_is_said_with_its_name(
    detector: hindsight.Detector, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedImage, match=r"none\.png"):
        detector.detect(tmp_path / "none.png", tile=96)
    (tmp_path / "large.png").write_bytes(encode(np.zeros((3000, 3000, 3), np.uint8)))
    with pytest.raises(OptionError, match=r"large\.png: tile 32"):
        detector.detect(tmp_path / "large.png", tile=32)
    detector.limits = hindsight.ImageLimits(max_pixels=100)
    with pytest.raises(ImageTooLarge):
        detector.detect(tmp_path / "large.png", tile=96)
