"""Both clients against a real server: the same Detections as the library's own, option by option."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hindsight
from hindsight.errors import CorruptImage, OptionError, ServiceError
from tests.factories import encode, make_tiny_artifact, tiles_image
from tests.server_process import TILES, ServerProcess, serving, wait_until
from tests.stub_server import Driven

pytestmark = pytest.mark.usefixtures("healthy_afterwards")
BLACK = encode(np.zeros((96, 160, 3), np.uint8))
OPTIONS: list[dict[str, Any]] = [
    {},
    {"score_threshold": 0.9},
    {"score_threshold": 0.0, "class_threshold": 0.0},
    {"class_threshold": 0.95},
    {"iou_weight": 0.0},
    {"iou_weight": 1.0},
    {"nms_threshold": 0.3},
    {"classes": ["green"]},
    {"classes": "red"},
    {"classes": ("red", "green")},
    {"max_detections": 1},
    {"max_detections": np.int64(1), "score_threshold": np.float32(0.5)},
    {"score_threshold": None, "classes": None, "iou_weight": 0.25, "nms_threshold": 0.7},
]
COLUMNS = ("boxes", "labels", "scores", "class_scores", "ious", "purities", "integrities")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the shared server once more."""
    path = tmp_path_factory.mktemp("same")
    make_tiny_artifact(path / "tiny")
    make_tiny_artifact(path / "plain", name="plain", localization=False)
    make_tiny_artifact(path / "masked", name="masked", masks=True)
    return path


@pytest.fixture(params=[hindsight.Client, Driven], ids=["sync", "async"])
def remote(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[Any]:
    made = request.param(server.url)
    yield made
    made.close()


def assert_same(ours: hindsight.Detections, theirs: hindsight.Detections) -> None:
    """Equal in what JSON says of them, and near in every number."""
    assert theirs.to_records() == ours.to_records()
    assert (theirs.class_names, theirs.image_hw, len(theirs)) == (ours.class_names, ours.image_hw, len(ours))
    for name in COLUMNS:
        local, over_the_wire = getattr(ours, name), getattr(theirs, name)
        assert (local is None) == (over_the_wire is None), name
        if local is not None:
            assert local.dtype == over_the_wire.dtype and local.shape == over_the_wire.shape
            np.testing.assert_allclose(over_the_wire, local, atol=1e-3 if name == "boxes" else 1e-6)
    assert theirs.has_masks == ours.has_masks
    for row in range(len(ours) if ours.has_masks else 0):
        np.testing.assert_array_equal(theirs.bitmap(row), ours.bitmap(row))
    assert theirs.to_coco() == ours.to_coco() and theirs.to_yolo() == ours.to_yolo()
    np.testing.assert_array_equal(np.asarray(theirs.plot()), np.asarray(ours.plot()))


@pytest.mark.parametrize("model", ["tiny", "plain", "masked"])
def test_every_option_gives_the_librarys_own_answer(remote: Any, folder: Path, model: str) -> None:
    odd = tiles_image(70, 333)
    with hindsight.load(folder / model) as local:
        for options in OPTIONS:
            for image in (tiles_image(), odd):
                assert_same(local.detect(image, **options), remote.detect(image, model=model, **options))


@pytest.mark.parametrize("model", ["tiny", "plain", "masked"])
def test_nothing_found_is_the_same_nothing(remote: Any, folder: Path, model: str) -> None:
    with hindsight.load(folder / model) as local:
        black = np.zeros((96, 160, 3), np.uint8)
        ours, theirs = local.detect(black), remote.detect(black, model=model)
        assert len(ours) == 0
        assert_same(ours, theirs)


def test_every_kind_of_image_is_taken(remote: Any, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiles.png"
    path.write_bytes(TILES)
    kinds = [path, str(path), TILES, tiles_image(), tiles_image()[:, :, 0], Image.fromarray(tiles_image())]
    with hindsight.load(folder / "tiny") as local:
        for image in kinds:
            ours, theirs = local.detect(image), remote.detect(image)
            assert theirs.to_records() == ours.to_records()


def test_a_second_opinion_is_the_same(remote: Any, folder: Path) -> None:
    boxes = [[32, 0, 64, 32], [0, 0, 160, 96], [90.5, 60.25, 130, 96]]
    with hindsight.load(folder / "tiny") as local:
        assert remote.rescore(TILES, boxes).to_records() == local.rescore(TILES, boxes).to_records()
        assert len(remote.rescore(TILES, [])) == 0
    with pytest.raises(OptionError, match="no localization head"):
        remote.rescore(TILES, boxes, model="plain")


@pytest.mark.parametrize("images_per_request", [None, 1, 3])
@pytest.mark.parametrize("model", ["tiny", "masked"])
def test_many_images_are_answered_like_each_alone(
    remote: Any, folder: Path, model: str, images_per_request: int | None
) -> None:
    images = [tiles_image(), BLACK, b"no image", tiles_image(70, 333), TILES] * 3
    outcomes = list(remote.detect_many(images, model=model, images_per_request=images_per_request))
    with hindsight.load(folder / model) as local:
        for image, outcome in zip(images, outcomes, strict=True):
            if image == b"no image" if isinstance(image, bytes) else False:
                assert isinstance(outcome, hindsight.errors.UnsupportedImage)
            else:
                assert outcome.to_records() == local.detect(image).to_records()
                assert outcome.has_masks == (model == "masked")


def test_errors_are_the_librarys_own(remote: Any) -> None:
    with pytest.raises(CorruptImage):
        remote.detect(TILES[:200])
    with pytest.raises(OptionError, match="score_threshold"):
        remote.detect(TILES, score_threshold=7)
    with pytest.raises(OptionError, match="did you mean"):
        remote.detect(TILES, score_treshold=0.5)


def test_the_models_say_what_their_answers_have(remote: Any) -> None:
    said = {entry["name"]: (entry["has_localization"], entry["has_masks"]) for entry in remote.models()}
    assert said == {"tiny": (True, False), "plain": (False, False), "masked": (True, True)}
    assert remote.default_model() == "tiny"
    versions = {entry["name"]: entry["versions"][0] for entry in remote.models()}
    assert {name: (each["has_localization"], each["has_masks"]) for name, each in versions.items()} == said


def test_work_that_nobody_waits_for_is_dropped(tmp_path: Path) -> None:
    """Of cancelled tasks the server notes that their clients have left, 499; a call whose time is shorter
    than the work is not begun.
    """
    model = str(make_tiny_artifact(tmp_path / "tiny").path)
    with serving(tmp_path, "--model", model, "--backend", "sleep:3000") as server:

        def statuses() -> list[int]:
            return [record["status"] for record in server.log("request") if record["path"] == "/detect"]

        async def leave() -> None:
            async with hindsight.AsyncClient(server.url) as client:
                tasks = [asyncio.create_task(client.detect(TILES)) for _ in range(2)]
                await asyncio.to_thread(
                    wait_until, lambda: server.metric("hindsight_requests_in_flight") >= 3, "both to be there"
                )
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(leave())
        wait_until(lambda: len(statuses()) == 2, "two requests to be given up")
        assert statuses() == [499, 499]
        with hindsight.Client(server.url, timeout=1, retries=0) as client, pytest.raises(ServiceError):
            client.detect(TILES)
        wait_until(lambda: len(statuses()) == 3, "the third to be given up")
        assert statuses()[-1] in {499, 503, 504}
