"""What the page writes for other tools: the same documents as service/formats.py writes."""

from __future__ import annotations

import base64
import dataclasses
import io
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser

from hindsight.detections import Detections
from hindsight.manifest import ClassInfo
from service.formats import to_coco, to_labelstudio
from tests.browser.modules import Modules, open_modules

CLASSES = ("red", "green & <b>", "blau ß")


class OfClasses:
    """What service/formats.py reads of a manifest."""

    name = "tiny"
    version = "1"
    class_names = CLASSES
    classes = tuple(ClassInfo(name, "#d62728") for name in CLASSES)


@pytest.fixture(scope="module")
def modules(browser: Browser, server: str) -> Iterator[Modules]:
    with open_modules(browser, server) as found:
        yield found


def detections(seed: int, size: tuple[int, int], *, localization: bool = True, count: int = 40) -> Detections:
    """Boxes on whole pixels, on eighths and on any float32: the first give decimals that end in halves."""
    rng = np.random.default_rng(seed)
    height, width = size
    corners = rng.uniform(0, 1, (count, 2, 2)) * [width, height]
    corners[::3] = np.round(corners[::3])
    corners[1::3] = np.round(corners[1::3] * 8) / 8
    low, high = corners.min(axis=1), corners.max(axis=1) + 1
    unit = rng.uniform(0, 1, (5, count)).astype(np.float32)
    unit[:, ::4] = np.round(unit[:, ::4] * 64) / 64
    head = (unit[2], unit[3], unit[4]) if localization else (None, None, None)
    return Detections(
        np.hstack([low, high]).astype(np.float32),
        rng.integers(0, len(CLASSES), count),
        unit[0],
        unit[1],
        *head,
        CLASSES,
        size,
    )


def as_image(found: Detections, name: str = "a.jpg") -> dict[str, Any]:
    height, width = found.image_hw
    return {"name": name, "width": width, "height": height, "own": False, "records": found.to_records()}


SIZES = [(128, 128), (480, 640), (96, 4096), (333, 1001)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("localization", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_coco_is_the_servers(
    modules: Modules, size: tuple[int, int], localization: bool, masked: bool
) -> None:
    found = [detections(seed, size, localization=localization) for seed in (1, 2)]
    if masked:
        cells = np.random.default_rng(3).random((40, 7, 7), np.float32)
        found = [dataclasses.replace(each, masks=cells) for each in found]
    problem = {"title": "The image cannot be decoded", "status": 422, "detail": "cut short"}
    images = [as_image(found[0], "a.jpg"), {"name": "b.jpg", "problem": problem}, as_image(found[1], "c.jpg")]
    classes = [{"name": info.name, "colour": info.colour} for info in OfClasses.classes]
    written = modules.call("boxes-write", "module.toCoco(value[0], value[1])", [images, classes])
    assert [image.pop("file_name") for image in written["images"]] == ["a.jpg", "b.jpg", "c.jpg"]
    assert written == to_coco([found[0], problem, found[1]], OfClasses)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", SIZES)
def test_yolo_is_the_servers_to_the_last_digit(modules: Modules, size: tuple[int, int]) -> None:
    found = detections(3, size, count=200)
    assert modules.call("boxes-write", "module.toYolo(value)", as_image(found)) == found.to_yolo()


def test_label_studio_is_the_servers(modules: Modules) -> None:
    for localization in (True, False):
        found = detections(4, (480, 640), localization=localization)
        model = {"name": "tiny", "version": "1"}
        images = [as_image(found, "ä b&c.jpg")]
        tasks = modules.call(
            "boxes-write",
            "module.toLabelStudioTasks(value[0], value[1], value[2])",
            [images, model, "/data/local-files/?d="],
        )
        assert tasks[0]["data"] == {"image": "/data/local-files/?d=%C3%A4%20b%26c.jpg"}
        [prediction] = tasks[0]["predictions"]
        expected = to_labelstudio(found, OfClasses)  # type: ignore[arg-type]
        assert prediction.pop("score") == pytest.approx(expected.pop("score"), abs=1e-6)
        assert prediction == expected
    empty = found.select([])
    assert modules.call(
        "boxes-write", "module.toLabelStudio(value, {name: 'a', version: '1'})", as_image(empty)
    ) == {
        "model_version": "a 1",
        "score": 0,
        "result": [],
    }


def test_numbers_are_rounded_as_python_rounds_them(modules: Modules) -> None:
    rng = np.random.default_rng(5)
    values = [
        *(rng.integers(0, 4096, 500) / 1024),
        *rng.uniform(0, 500, 500),
        0,
        0.5,
        1.5,
        2.5,
        0.0078125,
        1e-7,
    ]
    values = [float(value) for value in values]
    for digits in (0, 2, 3, 6):
        written = modules.call(
            "boxes-write", "value[0].map((number) => module.fixed(number, value[1]))", [values, digits]
        )
        assert written == [f"{value:.{digits}f}" for value in values]


def test_a_persons_boxes_carry_no_score(modules: Modules) -> None:
    image = as_image(detections(6, (480, 640), count=3)) | {"own": True}
    classes = [{"name": name} for name in CLASSES]
    coco = modules.call("boxes-write", "module.toCoco([value[0]], value[1])", [image, classes])
    assert all("score" not in row and "iou" in row for row in coco["annotations"])
    assert all(
        len(line.split()) == 5
        for line in modules.call("boxes-write", "module.toYolo(value)", image).splitlines()
    )
    [task] = modules.call(
        "boxes-write", "module.toLabelStudioTasks([value], {name: 'a', version: '1'}, '')", image
    )
    assert set(task) == {"data", "annotations"}
    assert all("score" not in region for region in task["annotations"][0]["result"])


def zipped(modules: Modules, files: list[tuple[str, bytes]]) -> bytes:
    given = [[name, list(content)] for name, content in files]
    text = modules.call(
        "zip",
        """(async () => {
            const zip = new module.ZipWriter(new Date(2026, 10, 22, 13, 14, 16));
            const taken = new Set();
            for (const [name, bytes] of value) zip.add(module.uniqueName(name, taken), new Uint8Array(bytes));
            const bytes = new Uint8Array(await zip.finish().arrayBuffer());
            let text = "";
            for (const byte of bytes) text += String.fromCharCode(byte);
            return btoa(text);
        })()""",
        given,
    )
    return base64.b64decode(text)


def test_archives_are_whole_and_hold_their_files(modules: Modules) -> None:
    files = [("a.txt", b"0 .5 .5 .1 .1\n"), ("größe.txt", bytes(range(256)) * 50), ("empty.txt", b"")]
    archive = zipfile.ZipFile(io.BytesIO(zipped(modules, files)))
    assert archive.testzip() is None
    assert [(info.filename, archive.read(info)) for info in archive.infolist()] == files
    assert {info.date_time for info in archive.infolist()} == {(2026, 11, 22, 13, 14, 16)}
    assert zipfile.ZipFile(io.BytesIO(zipped(modules, []))).namelist() == []


def test_names_in_archives_cannot_leave_their_folder_or_meet(modules: Modules) -> None:
    names = [
        "../../etc/passwd",
        "a\\b\\c.txt",
        "A.txt",
        "a.txt",
        "..",
        "",
        'x<y>:"|?*\n.txt',
        "C:\\x",
        "a.txt",
        "con. ",
    ]
    archive = zipfile.ZipFile(io.BytesIO(zipped(modules, [(name, b"1") for name in names])))
    members = archive.namelist()
    assert members == [
        "passwd", "c.txt", "A.txt", "a (2).txt", "file", "file (2)", "x_y_______.txt", "x",
        "a (3).txt", "con",
    ]  # fmt: skip
    assert len({member.lower() for member in members}) == len(names)


def test_yolo_files_have_their_images_names(modules: Modules) -> None:
    image = as_image(detections(7, (480, 640), count=1))
    images = [image | {"name": name} for name in ("a.jpg", "a.png", "classes.jpg")]
    files = modules.call(
        "boxes-write", "module.yoloFiles(value[0], value[1])", [images, [{"name": "red"}, {"name": "b"}]]
    )
    assert [name for name, _ in files] == ["a.txt", "a (2).txt", "classes (2).txt", "classes.txt"]
    assert files[-1][1] == "red\nb\n"


def test_loose_and_cut_boxes_are_drawn_dashed(modules: Modules) -> None:
    judged = [(0.9, 0.9), (0.5, 0.9), (0.9, 0.5), (0.5, 0.5), (None, None)]
    values = [{"purity": purity, "integrity": integrity} for purity, integrity in judged]
    assert modules.call("fit", "value.map(module.isOff)", values) == [False, True, True, True, False]


def test_texts_on_pictures_lie_where_the_server_puts_them(modules: Modules) -> None:
    from hindsight.draw import _free_place

    rng = np.random.default_rng(8)
    ours, taken = [], []
    queries = []
    for _ in range(40):
        low = rng.uniform(0, 500, 2)
        box = np.array([*low, *(low + rng.uniform(5, 150, 2))], np.float32)
        size = (float(rng.uniform(20, 120)), 18.0)
        queries.append([[float(value) for value in box], list(size)])
        place = _free_place(box, size, (640, 640), np.array(taken).reshape(-1, 4))
        taken.append(place)
        ours.append(list(place))
    code = """value.reduce(
        (places, [box, size]) => [...places, module.freePlace(box, size, [640, 640], places)], [])"""
    np.testing.assert_allclose(modules.call("picture", code, queries), ours, atol=1e-6)
