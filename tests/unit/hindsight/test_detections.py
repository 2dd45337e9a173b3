"""What Detections become: records and back, COCO, YOLO, Label Studio, supervision, a picture, a notebook's
page.
"""

from __future__ import annotations

import copy
import gc
import io
import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

import hindsight
from hindsight.artifact import Artifact
from hindsight.detections import Detections
from hindsight.errors import ImageError
from hindsight.masks import decode_mask, encode_bitmap
from tests.factories import encode, make_tiny_artifact, tiles_image

WITHOUT_OPENCV = "ignore:OpenCV:UserWarning"  # supervision announces that it does without
NASTY = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def found(tiny_artifact: Artifact) -> Detections:
    with hindsight.load(tiny_artifact.path) as detector:
        return detector.detect(tiles_image()).with_image(tiles_image())


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Detections:
    folder = tmp_path_factory.mktemp("masked") / "masked"
    make_tiny_artifact(folder, name="masked", masks=True)
    with hindsight.load(folder) as detector:
        return detector.detect(tiles_image()).with_image(tiles_image())


def again(found: Detections, **arguments: Any) -> Detections:
    records = json.loads(json.dumps(found.to_records()))
    return Detections.from_records(records, found.class_names, found.image_hw, **arguments)


def test_records_are_read_back(found: Detections, masked: Detections) -> None:
    for each in (found, masked, found.select([]), found.select([1])):
        assert again(each).to_records() == each.to_records()
        assert again(again(each)).to_records() == each.to_records()
    np.testing.assert_array_equal(again(masked).bitmap(1), masked.bitmap(1))
    assert again(masked).masks is None and again(masked).has_masks
    assert again(masked).select([1]).to_records() == masked.to_records()[1:]
    assert again(masked).select([False, True]).to_records() == masked.to_records()[1:]


def test_an_answer_of_the_server_or_the_shell_is_read_back(found: Detections) -> None:
    document = {"model": "tiny", "image": {"width": 160, "height": 96}, "detections": found.to_records()}
    for text in (document, json.dumps(document), json.dumps(document).encode()):
        read = Detections.from_json(text)
        assert read.to_records() == found.to_records() and read.image_hw == (96, 160)
        assert read.class_names == ("red", "green")
        assert Detections.from_json(text, found.class_names).class_names == found.class_names
    alone = Detections.from_json({**document, "detections": found.to_records()[1:]})
    assert alone.class_names == ("class 0", "green")


@pytest.mark.parametrize(
    "document",
    [
        "not json",
        "[]",
        "{}",
        '{"detections": []}',
        '{"detections": [], "image": {"width": 1}}',
        '{"detections": 5, "image": {"width": 1, "height": 1}}',
        '{"detections": [5], "image": {"width": 1, "height": 1}}',
        '{"detections": [{"label_id": 0, "label": "a"}], "image": {"width": 1, "height": 1}}',
        '{"detections": [{"label_id": 1e30, "label": "a"}], "image": {"width": 1, "height": 1}}',
        '{"detections": [{"label_id": -1, "label": "a"}], "image": {"width": 1, "height": 1}}',
    ],
)
def test_what_is_no_answer_is_a_value_error(document: str) -> None:
    with pytest.raises(ValueError):
        Detections.from_json(document)


def test_labels_have_to_fit_the_classes(found: Detections) -> None:
    with pytest.raises(ValueError, match="none of the classes"):
        Detections.from_records(found.to_records(), ("red",), (96, 160))
    with pytest.raises(ValueError, match="none of the classes"):
        Detections.from_records(found.to_records(), ("red", "lime", "blue"), (96, 160))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may have other work
@given(st_numpy.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_run_length_codes_are_read_as_they_are_written(bitmap: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_mask(encode_bitmap(bitmap, 0, 0, bitmap.shape)), bitmap)


def test_run_length_codes_are_read_as_pycocotools_reads_them() -> None:
    from pycocotools import mask as coco

    rng = np.random.default_rng(0)
    for shape in ((1, 1), (7, 300), (480, 640)):
        for share in (0, 0.01, 0.5, 1):
            bitmap = rng.random(shape) < share
            code = coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))
            np.testing.assert_array_equal(decode_mask({**code, "counts": code["counts"].decode()}), bitmap)


@pytest.mark.parametrize(
    "code",
    [
        {},
        {"size": [2, 2]},
        {"size": [2, 2], "counts": "5"},  # five pixels of four
        {"size": [2, 2], "counts": "3"},
        {"size": [2, 2], "counts": "\x7f"},
        {"size": [2, 2], "counts": "P"},  # ends within a number
        {"size": [2, 2], "counts": "o" * 40},
        {"size": [2, 2], "counts": "0000"},
        {"size": [2], "counts": "4"},
        {"size": [-2, -2], "counts": "4"},
        {"size": [2, 2], "counts": 4},
    ],
)
def test_what_is_no_code_is_a_value_error(code: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        decode_mask(code)


def test_a_mask_of_another_image_is_refused(masked: Detections) -> None:
    records = masked.to_records()
    records[0]["segmentation"] = {"size": [10**6, 10**6], "counts": "0"}
    with pytest.raises(ValueError, match="expected a mask of size"):
        Detections.from_records(records, masked.class_names, masked.image_hw).bitmap(0)


def test_coco_annotations_are_coco(found: Detections, masked: Detections) -> None:
    first, second = found.to_coco(image_id=7, start_id=40)
    assert (first["id"], second["id"], first["image_id"]) == (40, 41, 7)
    assert first["category_id"] == 1 and first["bbox"] == [32, 0, 32, 32] and first["area"] == 1024
    assert first["iou"] == pytest.approx(0.8, abs=1e-4)
    assert masked.to_coco()[0]["segmentation"]["size"] == [96, 160]


def test_cocos_area_is_that_of_the_mask(masked: Detections) -> None:
    """As pycocotools has it: the left half of each tile, not its box."""
    from pycocotools import mask as coco

    for each in (masked, again(masked)):
        for row, annotation in enumerate(each.to_coco()):
            assert annotation["area"] == masked.bitmap(row).sum() == coco.area(annotation["segmentation"])
    assert [annotation["area"] for annotation in masked.to_coco()] == [512, 512]
    empty = {**masked.to_records()[0], "segmentation": {"size": [96, 160], "counts": "PPP1"}}
    assert coco.area(empty["segmentation"]) == 0
    assert Detections.from_records([empty], masked.class_names, (96, 160)).to_coco()[0]["area"] == 0
    broken = {**empty, "segmentation": {"size": [96, 160], "counts": "\x7f"}}
    with pytest.raises(ValueError, match="counts hold"):
        Detections.from_records([broken], masked.class_names, (96, 160)).to_coco()


def test_yolo_and_label_studio_are_relative(found: Detections) -> None:
    assert found.to_yolo().splitlines()[0] == "0 0.300000 0.166667 0.200000 0.333333 0.894427"
    # What Ultralytics trains on: five numbers, and an error for a sixth.
    assert found.to_yolo(scores=False).splitlines()[0] == "0 0.300000 0.166667 0.200000 0.333333"
    prediction = found.to_label_studio(model_version="tiny 1", from_name="boxes")
    region = prediction["result"][0]
    assert region["value"]["x"] == 20 and region["value"]["width"] == 20 and region["from_name"] == "boxes"
    assert prediction["model_version"] == "tiny 1"


@pytest.mark.filterwarnings(WITHOUT_OPENCV)
def test_supervision_gets_every_column(found: Detections, masked: Detections) -> None:
    import supervision

    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections) and len(theirs) == 2
    np.testing.assert_array_equal(theirs.xyxy, found.boxes)
    np.testing.assert_array_equal(theirs.confidence, found.scores)
    np.testing.assert_array_equal(theirs.class_id, found.labels)
    assert list(theirs.data["class_name"]) == ["red", "green"]
    for name, column in (("iou", found.ious), ("purity", found.purities), ("integrity", found.integrities)):
        np.testing.assert_array_equal(theirs.data[name], column)
    np.testing.assert_array_equal(theirs.data["class_score"], found.class_scores)
    assert theirs.mask is None
    for each in (masked, again(masked)):
        mask = np.asarray(each.to_supervision().mask)
        np.testing.assert_array_equal(mask, [each.bitmap(0), each.bitmap(1)])
    assert len(theirs[theirs.data["iou"] > 0.79]) == 1  # their indexing takes our columns along


@pytest.mark.filterwarnings(WITHOUT_OPENCV)
def test_what_supervision_does_to_its_boxes_stays_there(found: Detections) -> None:
    before = found.to_records()
    theirs = found.to_supervision()
    assert theirs.confidence is not None and theirs.class_id is not None
    theirs.xyxy += 5
    theirs.confidence[:] = 0
    theirs.class_id[:] = 0
    theirs.data["iou"][:] = 0  # type: ignore[call-overload]
    assert found.to_records() == before


@pytest.mark.filterwarnings(WITHOUT_OPENCV)
def test_supervision_gets_nothing_found_too(found: Detections, masked: Detections) -> None:
    assert len(found.select([]).to_supervision()) == 0
    assert len(masked.select([]).to_supervision()) == 0


def test_a_missing_supervision_is_named(found: Detections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        found.to_supervision()


# The picture


def test_a_plot_shows_the_boxes_in_their_classes_colours(found: Detections) -> None:
    drawn = np.asarray(found.plot())
    assert drawn.shape == (96, 160, 3)
    assert drawn[25, 32].tolist() == [0xF2, 0x52, 0x3D]  # the palette's first, as exported models have it
    assert found.plot(Image.fromarray(tiles_image())).size == (160, 96)


def test_a_plot_needs_the_image_that_was_searched(found: Detections) -> None:
    with pytest.raises(ImageError, match="give it"):
        again(found).plot()
    with pytest.raises(ImageError, match="160 x 96"):
        found.plot(tiles_image(10, 10))


def test_masks_that_came_over_a_wire_are_drawn_too(masked: Detections) -> None:
    np.testing.assert_array_equal(
        np.asarray(again(masked).plot(tiles_image())), np.asarray(masked.plot(tiles_image()))
    )


def test_detections_do_not_keep_their_image_alive(tiny_artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "tiles.png"
    path.write_bytes(encode(tiles_image()))
    with hindsight.load(tiny_artifact.path) as detector:
        image = tiles_image()
        by_array, by_bytes = detector.detect(image), detector.detect(encode(image))
        by_pillow, by_path = detector.detect(Image.open(path)), detector.detect(path)
        np.testing.assert_array_equal(by_array.image, image)
        np.testing.assert_array_equal(by_array.select([1]).image, image)
        del image
        gc.collect()
    assert by_array.image is None and by_bytes.image is None and by_pillow.image is None
    assert by_path.image is not None and by_path.plot().size == (160, 96)
    assert by_bytes.with_image(encode(tiles_image())).image is not None


def test_copies_and_pickles_know_a_path_alone(found: Detections, tmp_path: Path) -> None:
    path = tmp_path / "tiles.png"
    path.write_bytes(encode(tiles_image()))
    for image, kept in ((path, True), (tiles_image(), False), (encode(tiles_image()), False)):
        there_and_back = pickle.loads(pickle.dumps(found.with_image(image)))
        assert (there_and_back.image is not None) == kept
        assert there_and_back.to_records() == found.to_records()
        assert (copy.deepcopy(found.with_image(image)).image is not None) == kept


# The notebook


def picture_in(html: str) -> Image.Image:
    import base64

    match = re.search(r'src="data:image/jpeg;base64,([A-Za-z0-9+/=]+)"', html)
    assert match is not None
    return Image.open(io.BytesIO(base64.b64decode(match[1])))


def test_a_notebook_shows_picture_and_table(found: Detections) -> None:
    html = found._repr_html_()
    with picture_in(html) as picture:
        assert picture.size == (160, 96)
    assert html.count("<tr>") == 3 and "0.894" in html and "red" in html
    jpeg = found._repr_jpeg_()
    assert jpeg is not None and jpeg.startswith(b"\xff\xd8")


def test_a_notebooks_picture_is_small_however_large_the_photo(tiny_artifact: Artifact) -> None:
    with hindsight.load(tiny_artifact.path) as detector:
        photo = tiles_image(1500, 2500)
        with picture_in(detector.detect(photo)._repr_html_()) as picture:
            assert picture.size == (900, 540)


def test_without_an_image_a_notebook_shows_the_table(found: Detections, tmp_path: Path) -> None:
    bare = again(found)
    assert "<img" not in bare._repr_html_() and bare._repr_html_().count("<tr>") == 3
    assert bare._repr_jpeg_() is None
    path = tmp_path / "other.png"
    path.write_bytes(encode(tiles_image(10, 10)))
    for image in (tmp_path / "gone.png", path):  # since it was searched, gone or changed
        assert "<img" not in found.with_image(image)._repr_html_()
    assert "<table" not in found.select([])._repr_html_()


def test_class_names_are_text_and_nothing_else(found: Detections) -> None:
    records = [{**record, "label": NASTY, "label_id": 0} for record in found.to_records()]
    html = Detections.from_records(records, (NASTY,), (96, 160))._repr_html_()
    assert "<script" not in html and "&lt;script&gt;" in html
    drawn = Detections.from_records(records, ('" onload="x',) * 0 or (NASTY,), (96, 160)).with_image(
        tiles_image()
    )
    assert "<script" not in drawn._repr_html_()


def test_a_long_table_is_cut(found: Detections) -> None:
    many = found.select(np.zeros(100, np.int64))
    assert many._repr_html_().count("<tr>") == 31 and "and 70 more" in many._repr_html_()


def test_the_short_form_says_what_was_found(found: Detections) -> None:
    assert repr(found) == "<Detections: 2 in 160 x 96: red 1, green 1>"
    assert repr(found.select([])) == "<Detections: 0 in 160 x 96>"
