"""What clients may ask of a running server: options of detection, formats of the answer, models."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.schemas import ModelsResponse
from tests.factories import encode, tiles_image
from tests.server_process import TILES, assert_problem

pytestmark = pytest.mark.usefixtures("healthy_afterwards")


def test_options_reach_the_model(client: httpx.Client) -> None:
    def ask(**query: object) -> list[dict[str, Any]]:
        answer = client.post(
            "/detect", content=TILES, params={key: str(value) for key, value in query.items()}
        )
        assert answer.status_code == 200, answer.text
        detections: list[dict[str, Any]] = answer.json()["detections"]
        return detections

    assert [each["label"] for each in ask(classes="green")] == ["green"]
    assert [each["label"] for each in ask(classes="green,red")] == ["red", "green"]
    assert len(ask(max_detections=1)) == 1
    assert [each["score"] for each in ask(iou_weight=0)] == pytest.approx([1, 240 / 255], abs=1e-4)
    assert [each["label"] for each in ask(class_threshold=0.99)] == ["red"]
    assert ask(score_threshold=1) == []
    plain = ask(model="plain")
    assert plain[0]["iou"] is None and plain[0]["purity"] is None and plain[0]["integrity"] is None


@pytest.mark.parametrize(
    ("query", "status", "slug", "words"),
    [
        ({"model": "tny"}, 404, "model-not-found", "'tiny'"),
        ({"score_threshold": "1.5"}, 422, "bad-option", "score_threshold"),
        ({"score_threshold": "nan"}, 422, "bad-option", "score_threshold"),
        ({"class_threshold": "-inf"}, 422, "bad-option", "class_threshold"),
        ({"iou_weight": "-0.1"}, 422, "bad-option", "iou_weight"),
        ({"nms_threshold": "0"}, 422, "bad-option", "nms_threshold"),
        ({"nms_threshold": "half"}, 422, "invalid-request", "nms_threshold"),
        ({"max_detections": "0"}, 422, "bad-option", "max_detections"),
        ({"max_detections": "21"}, 422, "bad-option", "20"),
        ({"classes": "reed"}, 422, "bad-option", "'red'"),
        ({"classes": ","}, 422, "bad-option", "classes"),
        ({"format": "xml"}, 422, "invalid-request", "format"),
        ({"score_treshold": "0.5"}, 422, "invalid-request", "'score_threshold'"),
        ({"annotate": "true", "format": "yolo"}, 422, "bad-option", "annotate"),
    ],
)
def test_bad_options_are_named(
    client: httpx.Client, query: dict[str, str], status: int, slug: str, words: str
) -> None:
    problem = assert_problem(client.post("/detect", content=TILES, params=query), status, slug)
    assert words in problem["detail"]


def test_other_formats(client: httpx.Client) -> None:
    coco = client.post("/detect", content=TILES, params={"format": "coco"}).json()
    assert coco["annotations"][0]["bbox"] == [32, 0, 32, 32]
    assert {each["id"]: each["name"] for each in coco["categories"]}[
        coco["annotations"][0]["category_id"]
    ] == "red"
    yolo = client.post("/detect", content=TILES, params={"format": "yolo"})
    assert yolo.headers["content-type"].startswith("text/plain")
    assert [float(value) for value in yolo.text.splitlines()[0].split()[:5]] == pytest.approx(
        [0, 0.3, 1 / 6, 0.2, 1 / 3], abs=1e-5
    )
    studio = client.post("/detect", content=TILES, params={"format": "labelstudio"}).json()
    assert studio["result"][0]["value"]["rectanglelabels"] == ["red"]
    assert studio["result"][0]["value"]["x"] == pytest.approx(20)


def test_annotate_answers_the_picture_with_boxes(client: httpx.Client) -> None:
    answer = client.post(
        "/detect", content=TILES, params={"annotate": "true"}, headers={"accept": "image/png"}
    )
    assert answer.headers["content-type"] == "image/png"
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert drawn.shape == (96, 160, 3)
    assert tuple(drawn[80, 127]) == (
        0x2C,
        0xA0,
        0x2C,
    )  # the right edge of the green box, in its class's colour
    assert (
        client.post("/detect", content=TILES, params={"annotate": "1"}).headers["content-type"]
        == "image/jpeg"
    )
    assert_problem(
        client.post("/detect", files=[("image", ("x", TILES))] * 2, params={"annotate": "1"}),
        422,
        "bad-option",
    )


def test_annotate_draws_the_upright_image_and_says_what_a_jpeg_cannot_hold(client: httpx.Client) -> None:
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(tiles_image()).transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    answer = client.post("/detect", content=turned.getvalue(), params={"annotate": "1"})
    assert Image.open(io.BytesIO(answer.content)).size == (160, 96)
    ribbon = encode(np.full((2, 66_000, 3), 255, np.uint8))
    refused = client.post("/detect", content=ribbon, params={"annotate": "1"})
    assert "Accept: image/png" in assert_problem(refused, 422, "bad-option")["detail"]
    drawn = client.post("/detect", content=ribbon, params={"annotate": "1"}, headers={"accept": "image/png"})
    assert Image.open(io.BytesIO(drawn.content)).size == (66_000, 2)


def test_models_and_samples(client: httpx.Client) -> None:
    answer = ModelsResponse.model_validate(client.get("/models").json())
    assert answer.default == "tiny"
    assert [model.name for model in answer.models] == ["tiny", "plain", "masked"]
    tiny = answer.models[0]
    assert (
        tiny.samples == ["tiles.jpg"] and tiny.classes[0].colour == "#d62728" and tiny.metrics["AP50"] == 0.9
    )
    assert tiny.training_data == {"name": "none"} and tiny.intended_use.startswith("Finding red, green")
    assert "At most 20 detections" in tiny.limits
    sample = client.get("/models/tiny/samples/tiles.jpg")
    assert sample.headers["content-type"] == "image/jpeg" and sample.content.startswith(b"\xff\xd8")
    for path in ("/models/tiny/samples/manifest.json", "/models/tiny/samples/..%2f..%2fmanifest.json"):
        assert_problem(client.get(path), 404, "not-found")
    assert_problem(client.get("/models/none/samples/tiles.jpg"), 404, "model-not-found")
