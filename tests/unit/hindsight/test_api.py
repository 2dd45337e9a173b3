"""The library's front door against the tiny model, whose answers follow from the pixels (factories.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hindsight
from hindsight.artifact import Artifact
from hindsight.decode import ImageLimits
from hindsight.errors import (
    CorruptImage,
    ImageTooLarge,
    ModelNotFound,
    OptionError,
    RuntimeFailure,
    UnsupportedImage,
)
from hindsight.inputs import detect_inputs, rescore_inputs
from hindsight.manifest import ResizeRule
from hindsight.options import DetectOptions
from hindsight.postprocess import split_detections
from hindsight.preprocess import letterbox
from hindsight.runtime import open_runtime
from tests.factories import encode, make_tiny_artifact, tiles_image

RED, GREEN = [32, 0, 64, 32], [96, 64, 128, 96]


@pytest.fixture
def detector(tiny_artifact: Artifact) -> Iterator[hindsight.Detector]:
    with hindsight.load(tiny_artifact.path, threads=1) as loaded:
        yield loaded


def test_each_box_comes_with_its_four_numbers(detector: hindsight.Detector) -> None:
    red, green = detector.detect(tiles_image()).to_records()
    assert red == {
        "box": RED, "label": "red", "label_id": 0,
        "score": pytest.approx(0.8**0.5, abs=1e-5), "class_score": 1.0,
        "iou": 0.8, "purity": 1.0, "integrity": 0.8,
    }  # fmt: skip
    assert (green["box"], green["label"], green["class_score"]) == (
        GREEN,
        "green",
        pytest.approx(240 / 255, abs=1e-5),
    )


@pytest.mark.parametrize("kind", ["path", "text path", "bytes", "array", "pillow"])
def test_an_image_may_come_in_any_shape(detector: hindsight.Detector, kind: str, tmp_path: Path) -> None:
    image = tiles_image()
    (tmp_path / "photo.png").write_bytes(encode(image))
    given = {
        "path": tmp_path / "photo.png",
        "text path": str(tmp_path / "photo.png"),
        "bytes": encode(image),
        "array": image,
        "pillow": Image.fromarray(image),
    }[kind]
    assert detector.detect(given).boxes.tolist() == [RED, GREEN]  # type: ignore[arg-type]


def test_boxes_are_in_pixels_of_the_original(detector: hindsight.Detector) -> None:
    found = detector.detect(tiles_image(192, 320))
    np.testing.assert_allclose(found.boxes, [[64, 0, 128, 64], [192, 128, 256, 192]])
    assert found.image_hw == (192, 320)


def test_an_exif_rotated_photo_is_detected_upright(detector: hindsight.Detector) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    lying = np.rot90(tiles_image(), 1)
    assert detector.detect(encode(np.ascontiguousarray(lying), exif=exif)).boxes.tolist() == [RED, GREEN]


def test_options_act_on_the_answer(detector: hindsight.Detector) -> None:
    image = tiles_image()
    assert detector.detect(image, classes="green").names == ("green",)
    assert detector.detect(image, max_detections=1).names == ("red",)
    assert detector.detect(image, class_threshold=0.97).names == ("red",)
    np.testing.assert_allclose(detector.detect(image, iou_weight=0).scores, [1, 240 / 255], rtol=1e-5)
    np.testing.assert_allclose(detector.detect(image, iou_weight=1).scores[0], 0.8, rtol=1e-5)
    assert len(detector.detect(image, score_threshold=0.9)) == 0
    with pytest.raises(
        OptionError, match=r"did you mean 'score_threshold'.*max_detections, tile, overlap, whole"
    ):
        detector.detect(image, score_treshold=0.9)
    with pytest.raises(OptionError, match="did you mean 'tile'"):
        detector.detect(image, tiles=64)


def test_an_empty_image_has_empty_detections(detector: hindsight.Detector) -> None:
    found = detector.detect(np.zeros((96, 160, 3), np.uint8))
    assert len(found) == 0 and found.boxes.shape == (0, 4) and found.to_records() == []


@pytest.mark.parametrize("hw", [(1, 1), (1, 4000), (4000, 1)])
def test_thin_images_pass(detector: hindsight.Detector, hw: tuple[int, int]) -> None:
    found = detector.detect(np.full((*hw, 3), 255, np.uint8))
    assert len(found) >= 1
    assert (found.boxes[:, 2:] <= [hw[1], hw[0]]).all()


def test_a_batch_answers_what_each_image_answers_alone(detector: hindsight.Detector) -> None:
    images = [
        tiles_image(),
        tiles_image(300, 200),
        np.zeros((5, 5, 3), np.uint8),
        tiles_image()[:, ::-1],
        tiles_image(),
    ]
    together = detector.detect_batch(images)
    assert [found.to_records() for found in together] == [
        detector.detect(image).to_records() for image in images
    ]
    assert detector.detect_batch([]) == []


def test_rescore_judges_anybodys_boxes(detector: hindsight.Detector) -> None:
    opinion = detector.rescore(tiles_image(192, 320), [[64, 0, 128, 64], [0, 0, 128, 64], [64, 0, 128, 128]])
    np.testing.assert_allclose(opinion.purities, [1, 0.5, 0.5], atol=0.02)
    np.testing.assert_allclose(opinion.ious[0], 0.8, atol=0.02)
    assert opinion.class_scores.shape == (3, 3)
    assert opinion.to_records()[0]["label"] == "red"
    assert len(detector.rescore(tiles_image(), [])) == 0


def test_rescoring_needs_a_localization_head(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "plain", localization=False)
    with hindsight.load(artifact.path) as plain:
        record = plain.detect(tiles_image()).to_records()[0]
        assert (record["iou"], record["purity"], record["integrity"]) == (None, None, None)
        with pytest.raises(OptionError, match="no localization head"):
            plain.rescore(tiles_image(), [RED])


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (b"", CorruptImage),
        (b"plain text", UnsupportedImage),
        ("nowhere.jpg", UnsupportedImage),
        (".", UnsupportedImage),
        (np.zeros((4, 4, 3)), UnsupportedImage),
        (np.zeros((4, 4, 4), np.uint8), UnsupportedImage),
        (np.zeros((0, 4, 3), np.uint8), UnsupportedImage),
        (None, UnsupportedImage),
        (["a.jpg", "b.jpg"], UnsupportedImage),
    ],
)
def test_an_unusable_image_is_refused(
    detector: hindsight.Detector, image: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        detector.detect(image)  # type: ignore[arg-type]


def test_an_address_is_not_fetched_and_the_message_says_so(detector: hindsight.Detector) -> None:
    for image in ("http://example.org/a.jpg", "https://example.org/a.jpg", "rtsp://camera/1"):
        with pytest.raises(UnsupportedImage, match=rf"{image}: .* no address"):
            detector.detect(image)
        with pytest.raises(UnsupportedImage, match=rf"{image}: .* no address"):
            hindsight.Client("http://localhost:1").detect(image)


def test_a_bad_file_is_named(detector: hindsight.Detector, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("these are notes")
    with pytest.raises(UnsupportedImage, match=r"notes\.jpg: the data does not start like an image"):
        detector.detect(tmp_path / "notes.jpg")


def test_limits_hold_for_files_and_pillow_images_too(tiny_artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(encode(tiles_image()))
    runtime = open_runtime("sleep:0", tiny_artifact)
    with pytest.raises(ImageTooLarge, match="bytes"):
        hindsight.Detector(tiny_artifact, runtime, limits=ImageLimits(max_bytes=10)).detect(
            tmp_path / "photo.png"
        )
    with pytest.raises(ImageTooLarge, match="pixels"):
        hindsight.Detector(tiny_artifact, runtime, limits=ImageLimits(max_pixels=10)).detect(
            Image.fromarray(tiles_image())
        )


def test_an_unknown_model_lists_the_known(monkeypatch: pytest.MonkeyPatch, tiny_artifact: Artifact) -> None:
    monkeypatch.setenv("HINDSIGHT_MODELS", str(tiny_artifact.path))
    with pytest.raises(ModelNotFound, match=r"there are: .*tiny"):
        hindsight.load("nope")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "nope"}, r"unknown runtime 'nope'; there are: .*onnxruntime"),
        ({"runtime": "sleep"}, "sleep:50"),
        ({"runtime": "sleep:-1"}, "sleep:50"),
        ({"runtime": "sleep:nan"}, "sleep:50"),
        ({"runtime": "onnxruntime:fast"}, r"takes fp32 \(the default\) or tf32"),
        ({"runtime": "onnxruntime:tf32"}, "tf32 is a precision of GPUs"),
        ({"device": "tpu"}, "device must be"),
        ({"threads": 0}, "threads must be at least 1"),
    ],
)
def test_runtimes_refuse_what_they_do_not_know(
    tiny_artifact: Artifact, options: dict[str, object], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        hindsight.load(tiny_artifact.path, **options)  # type: ignore[arg-type]


def test_the_sleep_runtime_answers_nothing_in_the_models_shapes(tiny_artifact: Artifact) -> None:
    with hindsight.load(tiny_artifact.path, runtime="sleep:1") as sleeper:
        assert len(sleeper.detect(tiles_image())) == 0
        assert sleeper.rescore(tiles_image(), [RED]).ious.tolist() == [0]


def test_a_graph_that_cannot_run_is_a_runtime_failure(tiny_artifact: Artifact, tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "broken")
    artifact.model_path.write_bytes(b"not a graph")
    with pytest.raises(RuntimeFailure, match=r"cannot load model\.onnx"):
        open_runtime("onnxruntime", artifact)
    runtime = open_runtime("onnxruntime", tiny_artifact)
    with pytest.raises(RuntimeFailure, match="ONNX Runtime failed"):
        runtime.detect({"images": np.zeros((1, 32, 32, 3), np.uint8)})
    runtime.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        runtime.detect({})


def test_the_rescoring_graph_is_opened_by_the_first_rescore(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "lazy")
    runtime = open_runtime("onnxruntime", artifact)
    assert artifact.rescore_path is not None
    artifact.rescore_path.write_bytes(b"not a graph")
    lb = letterbox(tiles_image(), artifact.manifest.resize)
    runtime.detect(detect_inputs([lb], [DetectOptions.resolve(artifact.manifest)]))
    with pytest.raises(RuntimeFailure, match=r"cannot load rescore\.onnx"):
        runtime.rescore(rescore_inputs([lb], [np.zeros((0, 4), np.float32)]))


def test_a_batch_takes_one_nms_threshold(tiny_artifact: Artifact) -> None:
    options = DetectOptions.resolve(tiny_artifact.manifest)
    lb = letterbox(tiles_image(), ResizeRule(96, 160))
    with pytest.raises(ValueError, match="one nms_threshold"):
        detect_inputs([lb, lb], [options, dataclasses.replace(options, nms_threshold=0.1)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_detections": np.array([99])}, "99 detections"),
        ({"scores": np.full((1, 4), np.nan, np.float32)}, "not all finite"),
        ({"labels": np.full((1, 4), 7)}, "label 7"),
    ],
)
def test_outputs_that_break_the_promise_are_a_runtime_failure(
    tiny_artifact: Artifact, change: dict[str, np.ndarray], message: str
) -> None:
    outputs = {
        "num_detections": np.array([2]), "boxes": np.zeros((1, 4, 4), np.float32),
        "labels": np.zeros((1, 4), np.int64),
        "scores": np.ones((1, 4), np.float32), "class_scores": np.ones((1, 4), np.float32), **change,
    }  # fmt: skip
    lb = letterbox(tiles_image(), tiny_artifact.manifest.resize)
    with pytest.raises(RuntimeFailure, match=message):
        split_detections(
            outputs, 0, lb, tiny_artifact.manifest, DetectOptions.resolve(tiny_artifact.manifest)
        )


def test_rows_come_best_first_whatever_the_model_says(tiny_artifact: Artifact) -> None:
    scores = np.array([[0.2, 0.9, 0.5, 0.7]], np.float32)
    outputs = {
        "num_detections": np.array([3]), "boxes": np.zeros((1, 4, 4), np.float32),
        "labels": np.array([[0, 1, 2, 0]]),
        "scores": scores, "class_scores": scores,
    }  # fmt: skip
    lb = letterbox(tiles_image(), tiny_artifact.manifest.resize)
    found = split_detections(
        outputs, 0, lb, tiny_artifact.manifest, DetectOptions.resolve(tiny_artifact.manifest)
    )
    assert found.labels.tolist() == [1, 2, 0]
    assert found.ious is None


def test_detections_select_rows(detector: hindsight.Detector) -> None:
    found = detector.detect(tiles_image())
    assert found.select([1, 0]).names == ("green", "red")
    assert found.select(found.scores > 0.86).names == ("red",)
    assert len(found.select([])) == 0
    with pytest.raises(ValueError, match=r"expected boxes \[2, 4\], got \[2, 5\]"):
        dataclasses.replace(found, boxes=np.zeros((2, 5), np.float32))


@pytest.mark.parametrize(
    ("kind", "advice"), [("torch", r'pip install "\.\[gpu\]"'), ("other", "install what it needs")]
)
def test_a_runtime_whose_package_is_missing_says_what_to_install(
    tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, kind: str, advice: str
) -> None:
    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [EntryPoint(kind, "no_such_package_here:open", group)]

    monkeypatch.setattr(hindsight.runtime, "entry_points", entry_points)
    with pytest.raises(RuntimeFailure, match=rf"runtime {kind} cannot be imported .*no_such.*: {advice}"):
        hindsight.runtime.open_runtime(kind, tiny_artifact)
