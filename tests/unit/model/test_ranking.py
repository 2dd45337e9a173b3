"""From candidates to detections: thresholds, fusion, suppression and the fixed-size answer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from model.config import NMS_KINDS, DetectorConfig, HeadConfig, NmsConfig
from model.ranking import rank
from model.structures import Candidates, DetectorOutput
from tests.unit.model.toys import toy_config

BOX, NEAR, FAR, FARTHER = (
    [0.0, 0.0, 20.0, 20.0],
    [0.0, 0.0, 20.0, 18.0],
    [40.0, 40.0, 60.0, 60.0],
    [70.0, 70.0, 90.0, 90.0],
)


def candidates(boxes: list[list[float]], scores: list[list[float]], ious: list[float] | None) -> Candidates:
    quality = None if ious is None else torch.tensor([ious])
    return Candidates(
        torch.tensor([boxes]),
        torch.tensor([scores]),
        quality,
        None if quality is None else quality.sqrt(),
        None if quality is None else quality * 0 + 0.9,
    )


def ranked(
    found: Candidates,
    *,
    class_threshold: float = 0.0,
    score_threshold: float = 0.0,
    iou_weight: float = 0.5,
    nms: float = 0.5,
    config: DetectorConfig | None = None,
) -> DetectorOutput:
    batch = torch.ones(len(found.boxes))
    return rank(
        found,
        batch * class_threshold,
        batch * score_threshold,
        batch * iou_weight,
        torch.tensor([nms]),
        config or toy_config(),
    )


def close(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_the_better_located_of_two_boxes_survives() -> None:
    found = candidates([BOX, NEAR, FAR], [[0.9, 0.0], [0.8, 0.0], [0.3, 0.6]], [0.4, 0.9, 0.5])
    by_both = ranked(found)
    assert by_both.num_detections.tolist() == [3]
    assert by_both.boxes[0, :3].tolist() == [NEAR, FAR, FAR] and by_both.labels[0, :3].tolist() == [0, 1, 0]
    close(by_both.scores[0, :3], [0.72**0.5, 0.3**0.5, 0.15**0.5])
    close(by_both.class_scores[0, :3], [0.8, 0.6, 0.3])
    close(by_both.ious[0, :3], [0.9, 0.5, 0.5])  # type: ignore[arg-type]
    close(by_both.purities[0, :3], [0.9**0.5, 0.5**0.5, 0.5**0.5])  # type: ignore[arg-type]
    by_class = ranked(found, iou_weight=0)
    assert by_class.boxes[0, 0].tolist() == BOX
    close(by_class.scores[0, :3], [0.9, 0.6, 0.3])


def test_the_class_score_is_filtered_before_fusion_and_the_fused_score_after() -> None:
    found = candidates([BOX, FAR, FARTHER], [[0.3, 0.0], [0.6, 0.0], [0.9, 0.0]], [0.99, 0.9, 0.1])
    assert ranked(found, class_threshold=0.5).boxes[0, :2].tolist() == [FAR, FARTHER]
    assert ranked(found, score_threshold=0.5).boxes[0, :2].tolist() == [FAR, BOX]
    both = ranked(found, class_threshold=0.5, score_threshold=0.5)
    assert both.num_detections.tolist() == [1] and both.boxes[0, 0].tolist() == FAR


def test_thresholds_belong_to_each_image() -> None:
    one = candidates([BOX, FAR], [[0.3], [0.6]], [1.0, 1.0])
    pair = Candidates(*(torch.cat([part, part]) for part in one if part is not None))
    found = rank(
        pair,
        torch.tensor([0.0, 0.5]),
        torch.zeros(2),
        torch.tensor([0.0, 0.5]),
        torch.tensor([0.5]),
        toy_config(),
    )
    assert found.num_detections.tolist() == [2, 1]
    close(found.scores[1, :1], [0.6**0.5])


def test_rows_past_the_last_detection_are_zero() -> None:
    found = ranked(candidates([BOX, NEAR], [[0.9], [0.8]], [0.9, 0.8]))
    assert found.num_detections.tolist() == [1] and found.boxes.shape == (1, 25, 4)
    for part in found[1:-1]:  # without masks
        assert part is not None and not part[0, 1:].any() and part[0, :1].isfinite().all()


def test_nothing_found_is_an_ordinary_answer() -> None:
    found = ranked(candidates([BOX], [[0.2]], [0.9]), class_threshold=0.5)
    assert found.num_detections.tolist() == [0]
    assert found.masks is None  # the last field: this detector has none
    assert all(part is not None and not part.any() for part in found[1:-1])


def test_at_most_max_detections_the_best_ones() -> None:
    rows = [[30.0 * i, 0.0, 30.0 * i + 20, 20.0] for i in range(9)]
    scores = [[0.1 * (i + 1)] for i in range(9)]
    found = ranked(candidates(rows, scores, [1.0] * 9), config=toy_config(max_detections=4))
    assert found.boxes.shape == (1, 4, 4) and found.num_detections.tolist() == [4]
    assert found.boxes[0].tolist() == rows[:4:-1]


def test_boxes_without_extent_are_dropped() -> None:
    line, nothing = [5.0, 5.0, 9.0, 5.0], [0.0, 0.0, 0.0, 0.0]
    found = ranked(candidates([line, nothing, BOX], [[0.9], [0.9], [0.1]], [0.9, 0.9, 0.1]))
    assert found.num_detections.tolist() == [1] and found.boxes[0, 0].tolist() == BOX


def test_without_a_localization_head_the_class_score_ranks_and_qualities_are_absent() -> None:
    found = ranked(candidates([BOX, NEAR], [[0.8], [0.9]], None), iou_weight=0.5)
    assert found.boxes[0, 0].tolist() == NEAR
    close(found.scores[0, :1], [0.9])
    assert found.ious is found.purities is found.integrities is None


def test_class_specific_boxes_are_suppressed_with_their_class() -> None:
    config = toy_config(
        head=HeadConfig(kind="shared", stages=1, class_specific_first=True), localization=None
    )
    boxes = torch.tensor([[[BOX, FAR], [NEAR, FARTHER]]])  # [B, D, C, 4]
    scores = torch.tensor([[[0.8, 0.7], [0.6, 0.9]]])
    found = ranked(Candidates(boxes, scores, None, None, None), config=config)
    assert found.num_detections.tolist() == [3]
    assert found.boxes[0, :3].tolist() == [FARTHER, BOX, FAR] and found.labels[0, :3].tolist() == [1, 0, 1]
    close(found.class_scores[0, :3], [0.9, 0.8, 0.7])


def of_kind(kind: str, **options: bool | float) -> DetectorConfig:
    return toy_config(nms=NmsConfig(kind, **options))  # type: ignore[arg-type]


def test_soft_nms_lowers_the_score_of_an_overlapped_box_and_no_class_score() -> None:
    found = candidates([BOX, NEAR, FAR], [[0.9], [0.8], [0.3]], [0.9, 0.8, 0.3])  # BOX and NEAR: IoU .9
    linear = ranked(found, config=of_kind("soft_linear"))
    assert linear.boxes[0, :3].tolist() == [BOX, FAR, NEAR]
    close(linear.scores[0, :3], [0.9, 0.3, 0.8 * 0.1])
    close(linear.class_scores[0, :3], [0.9, 0.3, 0.8])
    gaussian = ranked(found, config=of_kind("soft_gaussian", sigma=0.3), nms=1.0)
    close(gaussian.scores[0, :3], [0.9, 0.3, 0.8 * math.exp(-0.81 / 0.3)])


def test_soft_nms_reports_nothing_below_the_threshold_on_the_decayed_score() -> None:
    found = candidates([BOX, NEAR], [[0.9], [0.8]], [0.9, 0.8])
    assert ranked(found, config=of_kind("soft_linear"), score_threshold=0.1).num_detections.tolist() == [1]
    assert ranked(found, config=of_kind("soft_linear", min_score=0.2)).num_detections.tolist() == [1]
    assert ranked(found, config=of_kind("soft_linear")).num_detections.tolist() == [2]


def test_iou_guided_nms_keeps_the_best_located_box_with_its_cluster_s_class_score() -> None:
    found = candidates([BOX, NEAR, FAR], [[0.9], [0.4], [0.3]], [0.5, 0.8, 0.1])
    by_class = ranked(found, config=of_kind("iou_guided"), iou_weight=0)
    assert by_class.boxes[0, :2].tolist() == [NEAR, FAR] and by_class.num_detections.tolist() == [2]
    close(by_class.scores[0, :2], [0.9, 0.3])
    close(by_class.class_scores[0, :2], [0.4, 0.3])
    close(by_class.ious[0, :2], [0.8, 0.1])  # type: ignore[arg-type]
    close(ranked(found, config=of_kind("iou_guided")).scores[0, :2], [0.72**0.5, 0.03**0.5])


def test_iou_guided_nms_filters_class_scores_first_and_reported_scores_last() -> None:
    found = candidates([BOX, NEAR, FAR], [[0.9], [0.4], [0.3]], [0.5, 0.8, 0.9])
    config = of_kind("iou_guided")
    filtered = ranked(found, config=config, iou_weight=0, class_threshold=0.5)
    assert filtered.num_detections.tolist() == [1] and filtered.boxes[0, 0].tolist() == BOX
    # NEAR's own class score is below the threshold, the one it reports is not
    reported = ranked(found, config=config, iou_weight=0, score_threshold=0.5)
    assert reported.num_detections.tolist() == [1] and reported.boxes[0, 0].tolist() == NEAR


def test_class_agnostic_hard_nms_reports_a_box_once_and_suppresses_across_classes() -> None:
    found = candidates([BOX, NEAR, FAR], [[0.9, 0.7], [0.2, 0.8], [0.3, 0.6]], [1.0, 1.0, 1.0])
    assert ranked(found).num_detections.tolist() == [4]
    agnostic = ranked(found, config=of_kind("hard", class_agnostic=True))
    assert agnostic.num_detections.tolist() == [2]
    assert agnostic.boxes[0, :2].tolist() == [BOX, FAR] and agnostic.labels[0, :2].tolist() == [0, 1]
    assert ranked(found, config=of_kind("hard", class_agnostic=True), nms=1.0).num_detections.tolist() == [6]


def test_class_agnostic_soft_nms_decays_across_classes() -> None:
    found = candidates([BOX, NEAR], [[0.9, 0.0], [0.0, 0.8]], [1.0, 1.0])
    close(ranked(found, config=of_kind("soft_linear"), iou_weight=0).scores[0, :2], [0.9, 0.8])
    agnostic = ranked(found, config=of_kind("soft_linear", class_agnostic=True), iou_weight=0)
    close(agnostic.scores[0, :2], [0.9, 0.08])
    assert agnostic.labels[0, :2].tolist() == [0, 1]


def test_class_agnostic_iou_guided_nms_reports_the_best_class_of_the_cluster() -> None:
    found = candidates([BOX, NEAR, FAR], [[0.2, 0.9], [0.5, 0.1], [0.3, 0.0]], [0.5, 0.8, 0.6])
    agnostic = ranked(found, config=of_kind("iou_guided", class_agnostic=True), iou_weight=0)
    assert agnostic.num_detections.tolist() == [2]
    assert agnostic.boxes[0, :2].tolist() == [NEAR, FAR] and agnostic.labels[0, :2].tolist() == [1, 0]
    close(agnostic.scores[0, :2], [0.9, 0.3])
    close(agnostic.class_scores[0, :2], [0.1, 0.3])


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in NMS_KINDS if kind != "iou_guided"])
def test_class_specific_boxes_work_with_every_kind_that_ranks_by_score(
    kind: str, class_agnostic: bool
) -> None:
    config = toy_config(
        head=HeadConfig(kind="shared", stages=1, class_specific_first=True),
        localization=None,
        nms=NmsConfig(kind, class_agnostic=class_agnostic),
    )
    boxes = torch.tensor([[[BOX, NEAR], [FAR, FARTHER]]])  # [B, D, C, 4]
    scores = torch.tensor([[[0.9, 0.8], [0.7, 0.6]]])
    found = ranked(Candidates(boxes, scores, None, None, None), config=config)
    near = {"hard": 0.0, "soft_linear": 0.8 * 0.1, "soft_gaussian": 0.8 * math.exp(-0.81 / 0.5)}[kind]
    expected = [0.9, 0.7, 0.6, near] if class_agnostic else [0.9, 0.8, 0.7, 0.6]
    close(found.scores[0, :4], expected)
    assert found.num_detections.tolist() == [4 if near or not class_agnostic else 3]
    assert (
        found.boxes[0, 0].tolist() == BOX and found.boxes[0, 2 if class_agnostic else 3].tolist() == FARTHER
    )


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("kind", NMS_KINDS)
def test_nothing_found_is_an_ordinary_answer_of_every_kind(kind: str, class_agnostic: bool) -> None:
    config = of_kind(kind, class_agnostic=class_agnostic)
    found = ranked(candidates([BOX], [[0.2, 0.1]], [0.9]), class_threshold=0.5, config=config)
    assert found.num_detections.tolist() == [0]
    assert found.masks is None  # the last field: this detector has none
    assert all(part is not None and not part.any() for part in found[1:-1])
