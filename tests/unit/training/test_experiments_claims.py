"""What is computed is what docs/experiments.md wrote down before the runs; recipes and arms too."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from hindsight.overlap import pairwise_iou
from model.config import LocalizationConfig
from model.localization import build_localization
from tests.unit.model.toys import CLASSES, toy_detector
from training.evaluation.localization import match_rows
from training.experiments.claims import CLAIMS, find_claim
from training.experiments.detectors import ARMS, arm_recipe
from training.experiments.figures import COLOURS
from training.experiments.heads import HEADS, build_heads, head_of
from training.experiments.host import check_host
from training.experiments.inputs import FOLDER
from training.experiments.judging import CONFIDENCES, population, ranked
from training.experiments.table import RowTable
from training.recipe import Recipe, RecipeError, load_recipe

PAGE = (Path(__file__).parents[3] / "docs" / "experiments.md").read_text()
ROW = re.compile(r"^\| (\d[a-z]) \| ([^|]+) \|(.+)\|$", re.MULTILINE)


def rows_of_page() -> dict[str, tuple[str, list[str]]]:
    """Comparison -> (its text, the paper's differences as printed)."""
    return {
        name: (text.strip(), [cell.strip() for cell in cells.split("|")])
        for name, text, cells in ROW.findall(PAGE)
    }


def test_the_page_and_the_code_name_the_same_comparisons_and_numbers() -> None:
    page = rows_of_page()
    assert list(page) == [c.id for claim in CLAIMS for c in claim.comparisons]
    for claim in CLAIMS:
        scale = 1 if claim.name == "correlation" else 100
        for comparison in claim.comparisons:
            text, cells = page[comparison.id]
            if claim.kind == "table":
                assert text.replace(" alone", "") == f"{comparison.better} > {comparison.worse}"
            printed = [None if cell == "-" else float(cell.split(" ")[0]) / scale for cell in cells]
            expected = list(comparison.expected.values())
            assert printed == [pytest.approx(value) for value in expected[: len(printed)]]
            assert set(expected[len(printed) :]) <= {None}


def test_every_system_has_a_confidence_or_an_arm() -> None:
    for claim in CLAIMS:
        known = {"table": set(CONFIDENCES), "detectors": set(ARMS)}.get(claim.kind)
        assert known is None or set(claim.systems) <= known
    assert find_claim("3") is find_claim("combination")
    assert len(COLOURS) == 4


@pytest.mark.parametrize("name", ["bccd", "deeppcb"])
def test_the_hosts_recipes_are_hosts(name: str) -> None:
    recipe = load_recipe(str(FOLDER / f"{name}.toml"))
    check_host(recipe)
    assert recipe.optimisation.ema_decay == 0
    with pytest.raises(RecipeError, match="class-agnostic"):
        check_host(Recipe("faster_rcnn"))


def test_arms_differ_in_what_they_are_named_for() -> None:
    base = load_recipe(str(FOLDER / "gpu.toml"))
    configs = {name: arm_recipe(base, arm).detector_config(3) for name, arm in ARMS.items()}
    assert [configs[n].rpn.nms_threshold_regression for n in ("NMS_reg .7", "NMS_reg .85", "shared FC")] == [
        0.7,
        0.85,
        0.7,
    ]
    assert configs["shared FC"].head.share_trunk and not configs["NMS_reg .7"].head.share_trunk
    assert [configs[n].head.stages for n in ("NMS_reg .85", "three stages", "without DIR")] == [1, 3, 3]
    with_dir = configs["with DIR"].localization
    assert with_dir is not None and with_dir.jitter_per_truth == 0
    assert configs["with DIR"] == configs["with DIR, class score"]
    assert configs["without DIR"].localization is None
    assert configs["without DIR"].head == configs["with DIR"].head


def test_heads_of_one_kind_start_alike_and_the_control_has_as_many_parameters() -> None:
    heads = build_heads(toy_detector(localization=None), width=16, seed=3)
    assert list(heads) == list(HEADS)
    states = {name: head_of(heads, name).state_dict() for name in HEADS}
    for a, b in (("hindsight-pi", "foresight-pi"), ("hindsight-iou", "foresight-iou")):
        assert all(torch.equal(states[a][key], states[b][key]) for key in states[a])
    sizes = {name: sum(p.numel() for p in heads[name].parameters()) for name in HEADS}
    assert sizes["control"] == sizes["hindsight-pi"] == 2 * sizes["hindsight-iou"]
    own = build_localization(16 * 49, LocalizationConfig(width=16))
    assert sizes["hindsight-pi"] == sum(p.numel() for p in own.parameters())


def table(boxes: np.ndarray, scores: np.ndarray, iou: np.ndarray) -> RowTable:
    """One image with two objects of class 0 and 1, and a crowd."""
    judged = {"hindsight-pi/box/iou": iou}
    judged |= {f"hindsight-pi/box/{part}": iou for part in ("purity", "integrity")}
    return RowTable(
        image=np.zeros(len(boxes), np.int64),
        boxes=boxes.astype(np.float32),
        proposals=boxes.astype(np.float32),
        class_scores=scores.astype(np.float32),
        judged={name: value.astype(np.float32) for name, value in judged.items()},
        truth_image=np.zeros(3, np.int64),
        truth_boxes=np.array([[0, 0, 10, 10], [40, 0, 50, 10], [70, 0, 90, 20]], np.float32),
        truth_labels=np.array([0, 1, 0]),
        truth_crowd=np.array([False, False, True]),
        image_ids=np.array([7]),
        made_from="{}",
    )


def test_the_population_is_the_evaluators() -> None:
    rng = np.random.default_rng(0)
    corner = rng.choice([0.0, 40.0, 70.0], (60, 1)) * np.array([[1.0, 0.0]]) + rng.normal(0, 2, (60, 2))
    made = table(
        np.concatenate([corner, corner + 10], axis=1), rng.random((60, CLASSES - 1)) ** 3, corner[:, 0]
    )
    row, label, true_iou = population(made)
    confident, of = np.nonzero(made.class_scores > 0.05)
    truth = ~made.truth_crowd
    scores = made.class_scores[confident, of]
    same = match_rows(
        made.boxes[confident], of, scores, (scores,) * 3, made.truth_boxes[truth], made.truth_labels[truth]
    )
    assert 10 < len(row) < len(confident)
    np.testing.assert_array_equal(true_iou, same.true_iou)
    np.testing.assert_array_equal(made.class_scores[row, label].astype(np.float64), same.class_score)
    assert (pairwise_iou(made.boxes[row], made.truth_boxes[:2]).max(axis=1) >= 0.5).all()


def test_ranking_by_the_predicted_iou_keeps_the_better_box() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    made = table(boxes, np.array([[0.6, 0.0], [0.9, 0.0]]), np.array([0.95, 0.4]))
    (by_class,), (by_iou,) = ranked(made, "class score"), ranked(made, "hindsight P&I")
    assert by_class.boxes.tolist() == [[0, 0, 10, 8]] and by_class.scores[0] == pytest.approx(0.9)
    assert by_iou.boxes.tolist() == [[0, 0, 10, 10]]
    assert by_iou.scores[0] == pytest.approx(np.sqrt(0.6 * 0.95))
    assert by_iou.class_scores[0] == pytest.approx(0.6)


def test_combinations_are_those_of_the_detector() -> None:
    made = table(np.zeros((2, 4)), np.zeros((2, 2)), np.array([0.5, 0.25]))
    for name in ("purity", "integrity", "geometric mean", "arithmetic mean"):
        value = CONFIDENCES[name](made)
        assert value is not None
        np.testing.assert_allclose(value, [0.5, 0.25])
