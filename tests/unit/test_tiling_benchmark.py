"""The benchmark of tiles: its mosaics hold what they say, its figures mean what they are called."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.tiling import EVEN, OURS, RESULT, SHIPPED, WHOLE, spread, tiles
from benchmarks.tiling_figures import averages, cut_objects, integrity_report, operating_point
from benchmarks.tiling_mosaics import BOARD, SIDE, Mosaic, mosaics
from benchmarks.tiling_rules import RULES
from hindsight.detections import Detections
from hindsight.tiling import merge, pool
from tests.factories import encode

NAMES = ("a", "b")
PAGE = Path(__file__).parents[2] / "docs" / "tiling.md"


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Black boards, each with a white square and an annotation on it."""
    folder = tmp_path_factory.mktemp("boards")
    (folder / "images").mkdir()
    pixels = np.zeros((BOARD, BOARD, 3), np.uint8)
    pixels[300:340, 600:640] = 255
    images, annotations = [], []
    for number in range(1, 33):
        (folder / "images" / f"{number}.png").write_bytes(encode(pixels))
        images.append({"id": number, "file_name": f"{number}.png", "width": BOARD, "height": BOARD})
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [600, 300, 40, 40]}
        )
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "test.json").write_text(json.dumps(document))
    return folder / "test.json"


def answer(boxes: NDArray[np.float32], labels: NDArray[np.int64], scores: list[float]) -> Detections:
    column = np.array(scores, np.float32)
    return Detections(boxes, labels, column, column, column, column, column, NAMES, (SIDE, SIDE))


def perfect(mosaic: Mosaic) -> Detections:
    return answer(mosaic.boxes, mosaic.labels, [0.9] * len(mosaic.labels))


@pytest.mark.parametrize("aligned", [False, True])
def test_boxes_of_a_mosaic_lie_on_its_objects(boards: Path, aligned: bool) -> None:
    given = list(mosaics(boards, 2, aligned=aligned))
    assert len(given) == 2
    for mosaic in given:
        assert mosaic.pixels.shape == (SIDE, SIDE, 3)
        area = 0
        for (x1, y1, x2, y2), clipped in zip(mosaic.boxes.astype(int), mosaic.clipped, strict=True):
            assert (mosaic.pixels[y1:y2, x1:x2] == 255).all()
            assert clipped == ((x2 - x1, y2 - y1) != (40, 40))
            area += (x2 - x1) * (y2 - y1)
        assert area == (mosaic.pixels[:, :, 0] == 255).sum(), "none is forgotten"


def test_perfect_answers_have_perfect_figures_and_clipped_objects_do_not_count(boards: Path) -> None:
    given = list(mosaics(boards, 2, aligned=False))
    given[0] = dataclasses.replace(given[0], clipped=np.arange(len(given[0].labels)) < 2)
    unclipped = [perfect(mosaic).select(~mosaic.clipped) for mosaic in given]
    for answers in ([perfect(mosaic) for mosaic in given], unclipped):
        assert averages(given, answers) == {"AP": 1, "AP50": 1, "AP75": 1, "recall": 1}
        assert operating_point(given, answers) == {"recall": 1, "precision": 1, "f1": 1, "leftovers": 0}


def test_a_second_box_on_an_object_is_a_leftover(boards: Path) -> None:
    [mosaic] = mosaics(boards, 1, aligned=True)
    half = mosaic.boxes[:1] - np.array([0, 0, 15, 0], np.float32)
    boxes = np.concatenate([mosaic.boxes, half])
    labels = np.concatenate([mosaic.labels, mosaic.labels[:1]])
    found = answer(boxes, labels, [0.9] * len(mosaic.labels) + [0.5])
    point = operating_point([mosaic], [found])
    assert (point["recall"], point["leftovers"]) == (1, 1)
    assert point["precision"] == pytest.approx(len(mosaic.labels) / len(boxes), abs=1e-4)


def test_what_a_tile_says_of_objects_that_it_cuts(boards: Path) -> None:
    [mosaic] = mosaics(boards, 1, aligned=True)
    window = np.array([0, 0, 620, 620], np.int64)  # half of the first object
    seen = answer(np.array([[600, 300, 620, 340]], np.float32), mosaic.labels[[_first(mosaic)]], [0.75])
    [row] = cut_objects(mosaic, window, seen)
    assert (row["cut"], row["true_integrity"], row["true_iou"], row["integrity"]) == (1, 0.5, 0.5, 0.75)
    whole = {**row, "cut": 0.0, "integrity": 0.9, "true_integrity": 1.0}
    report = integrity_report([row, whole])
    assert report["cut"]["true_integrity"] == 0.5 and report["whole"]["integrity"] == 0.9
    assert report["told_apart"]["integrity"] == 1 and report["told_apart"]["score"] == 0.5


def _first(mosaic: Mosaic) -> int:
    return int(np.flatnonzero((mosaic.boxes[:, 0] == 600) & (mosaic.boxes[:, 1] == 300))[0])


def test_both_ways_to_lay_tiles_cover_the_mosaic() -> None:
    assert sorted(set(tiles(0.0)[:, 0].tolist())) == [0, 640, 1280, 1360]
    assert sorted(set(tiles(0.3)[:, 0].tolist())) == [0, 448, 896, 1344, 1360]
    assert sorted(set(spread(4)[:, 0].tolist())) == [0, 453, 907, 1360]


def test_the_librarys_rule_is_one_of_those_compared() -> None:
    rng = np.random.default_rng(0)
    windows = np.concatenate([tiles(0.2), WHOLE])
    found = []
    for _ in windows:
        corner = rng.integers(0, 600, (40, 2))
        boxes = np.concatenate([corner, corner + rng.integers(10, 40, (40, 2))], axis=1).astype(np.float32)
        scores = -np.sort(-rng.random(40))
        column = scores.astype(np.float32)
        labels = rng.integers(0, 2, 40)
        found.append(Detections(boxes, labels, column, column, column, column, column, NAMES, (BOARD, BOARD)))
    merged = merge(found, windows, (SIDE, SIDE), nms_threshold=0.5)
    ruled = RULES["finest, whole first"](pool(found, windows, (SIDE, SIDE)), 0.5)
    assert merged.to_records() == ruled.select(np.argsort(-ruled.scores, kind="stable")).to_records()
    assert len({len(rule(pool(found, windows, (SIDE, SIDE)), 0.5)) for rule in RULES.values()}) > 3


def percent(figures: dict[str, float], *names: str) -> str:
    return " | ".join(f"{100 * figures[name]:.1f}" for name in names)


def test_the_page_shows_the_measured_figures() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = json.loads(RESULT.read_text(encoding="utf-8"))["tables"]["test"]
    both = f"{OURS}, and whole"
    layouts = {
        "one pass": ("single pass", "none"),
        "tiles, overlap 0": ("overlap 0", SHIPPED),
        "tiles, overlap .1": ("overlap 0.1", SHIPPED),
        "tiles, overlap .2": (OURS, SHIPPED),
        "tiles, overlap .3": ("overlap 0.3", SHIPPED),
        "tiles, overlap .2, and whole: the default": (both, SHIPPED),
    }
    for name, (layout, rule) in layouts.items():
        row = table[layout]["rules"][rule]
        shown = percent(row["at_default_threshold"], "recall", "precision")
        quality = percent(row, "AP", "AP50", "AP75")
        assert f"| {name} | {table[layout]['passes']} | {quality} | {shown} |" in page
    rules = {
        "ours": SHIPPED,
        "NMS by IoU": "nms",
        "NMS by IoU, class score only": "nms by class score",
        "NMS by score x integrity": "nms by score x integrity",
        "NMS over the smaller box": "nms, over the smaller",
        "greedy merging of boxes": "greedy merging",
    }
    for name, rule in rules.items():
        cells = [
            f"{percent(row, 'AP')} | {percent(row['at_default_threshold'], 'recall', 'precision')}"
            for row in (table[layout]["rules"][rule] for layout in (OURS, both))
        ]
        assert f"| {name} | {' | '.join(cells)} |" in page


def test_the_page_says_what_the_model_knows_of_cut_boxes() -> None:
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    known = result["integrity"]["test"]
    for sentence in (
        f"hold {100 * known['cut']['true_integrity']:.0f} % of their object",
        f"predicted is an integrity of {100 * known['cut']['integrity']:.0f} %",
        f"the whole one in {100 * known['told_apart']['integrity']:.0f} % of pairs",
    ):
        assert sentence in page
    second = result["second_opinion"]["test"]["rules"]["nms"]
    ours = result["tables"]["test"][EVEN]["rules"][SHIPPED]
    for row in (second, ours):
        assert f"{100 * row['at_default_threshold']['precision']:.1f}" in page
