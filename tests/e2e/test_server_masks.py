"""What a model with masks answers: each object's pixels, beside its box, in JSON and in the picture."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask
from PIL import Image

from service.schemas import DetectResponse
from tests.server_process import TILES

pytestmark = pytest.mark.usefixtures("healthy_afterwards")
HEADERS = {"content-type": "image/png"}


def left_half(box: list[float]) -> np.ndarray:
    x1, y1, x2, y2 = (round(value) for value in box)
    bitmap = np.zeros((96, 160), np.uint8)
    bitmap[y1:y2, x1 : (x1 + x2) // 2] = 1
    return bitmap


def detect(client: httpx.Client, **parameters: Any) -> httpx.Response:
    return client.post("/detect", params={"model": "masked", **parameters}, content=TILES, headers=HEADERS)


def test_each_detection_carries_its_pixels(client: httpx.Client) -> None:
    document = detect(client).json()
    DetectResponse.model_validate(document)
    assert len(document["detections"]) == 2
    for detection in document["detections"]:
        decoded = coco_mask.decode(detection["segmentation"])
        np.testing.assert_array_equal(decoded, left_half(detection["box"]))


def test_a_model_without_masks_says_nothing_of_them(client: httpx.Client) -> None:
    document = client.post("/detect", content=TILES, headers=HEADERS).json()
    assert all("segmentation" not in detection for detection in document["detections"])


def test_the_coco_format_has_them_as_coco_does(client: httpx.Client) -> None:
    for annotation in detect(client, format="coco").json()["annotations"]:
        x, y, width, height = annotation["bbox"]
        expected = left_half([x, y, x + width, y + height])
        np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]), expected)
        assert annotation["area"] == expected.sum()


def test_the_picture_shows_them(client: httpx.Client) -> None:
    """The red tile at [32, 0, 64, 32] is tinted on its left half only."""
    answer = client.post(
        "/detect",
        params={"model": "masked", "annotate": "true"},
        content=TILES,
        headers={**HEADERS, "accept": "image/png"},
    )
    with Image.open(io.BytesIO(answer.content)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[25, 40] != pixels[25, 56]).any()
    assert pixels[25, 56].tolist() == [255, 0, 0]
