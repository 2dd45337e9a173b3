"""Verdicts and suspicion from given numbers: one kind of mistake after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from hindsight.audit import judge as judge_module
from hindsight.audit.classes import NOT_JUDGED
from hindsight.audit.judge import judge, missing
from hindsight.audit.sizes import UsualSize
from tests.unit.audit.made_up import Box, examined

OBJECT: Box = (40, 40, 80, 80)


def boxes(*rows: Box) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(rows, np.float32).reshape(-1, 4)


def labels(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("box", "opinion", "other", "own", "verdict"),
    [
        (OBJECT, (0.93, 0.97, 0.96, 0.98), 0.0, [(OBJECT, 0, 0.95)], "fine"),
        ((20, 20, 100, 100), (0.27, 0.27, 0.99, 0.6), 0.0, [(OBJECT, 0, 0.95)], "loose"),
        ((40, 40, 60, 60), (0.27, 0.98, 0.27, 0.6), 0.0, [(OBJECT, 0, 0.95)], "cut"),
        ((60, 60, 100, 100), (0.2, 0.3, 0.3, 0.3), 0.0, [(OBJECT, 0, 0.95)], "shifted"),
        (OBJECT, (0.9, 0.95, 0.95, 0.02), 0.96, [(OBJECT, 1, 0.95)], "wrong class"),
        ((150, 150, 190, 190), (0.05, 0.05, 0.3, 0.01), 0.01, [(OBJECT, 0, 0.95)], "no object"),
    ],
)
def test_each_mistake_gets_its_name(
    box: Box,
    opinion: tuple[float, float, float, float],
    other: float,
    own: Sequence[tuple[Box, int, float]],
    verdict: str,
) -> None:
    (said,) = judge(examined([opinion], own, others=[other]), boxes(box), labels(0))
    assert said.verdict == verdict
    assert (said.suspicion < 0.25) == (verdict == "fine")


def test_the_head_is_asked_where_the_detector_is_silent() -> None:
    """An object that the detector misses, and a box of which the head thinks well."""
    (said,) = judge(examined([(0.95, 0.98, 0.97, 0.95)], []), boxes(OBJECT), labels(0))
    assert said.verdict == "fine" and said.own is None


def test_a_full_list_of_own_boxes_says_nothing_about_what_is_not_on_it() -> None:
    opinion = [(0.5, 0.7, 0.7, 0.02)]
    (short,) = judge(examined(opinion, [], steadiness=0.85), boxes(OBJECT), labels(0))
    (full,) = judge(examined(opinion, [], steadiness=0.85, full=True), boxes(OBJECT), labels(0))
    assert (short.verdict, full.verdict) == ("no object", "fine")
    assert full.suspicion < short.suspicion


def test_the_chance_of_a_misfit_is_the_formula_of_the_module() -> None:
    """u .8, t .95, z 2, an own box of s .9, w .85, v .6."""
    seen = examined([(0.8, 0.9, 0.9, 0.9)], [((40, 40, 80, 64), 0, 0.9)])
    seen = replace(seen, own=replace(seen.own, ious=np.array([0.85], np.float32)))
    size = UsualSize(np.log(1600) - 2, 1.0, 10**9)
    (said,) = judge(seen, boxes(OBJECT), labels(0), {0: size})
    evidence = 26.7 - 13.4 * 0.8 - 25.5 * 0.95 + 0.7 * 2 - 12.7 + 14.5 * 0.85 + 8.4 * 0.9 - 5.9 * 0.9 * 0.6
    assert said.suspicion == pytest.approx(1 / (1 + np.exp(-evidence)), abs=1e-4)
    terms = "26.7 - 13.4 u - 25.5 t + 0.7 z", "- 12.7 + 14.5 w + 8.4 s - 5.9 s v"
    assert all(term in str(judge_module.__doc__) for term in terms)


def test_a_box_that_the_head_would_move_is_more_suspicious() -> None:
    steady, moved = (
        judge(examined([(0.8, 0.9, 0.9, 0.9)], [], steadiness=t), boxes(OBJECT), labels(0))[0]
        for t in (0.97, 0.87)
    )
    assert moved.suspicion > steady.suspicion


def test_weak_boxes_of_the_models_own_are_no_witnesses() -> None:
    (said,) = judge(examined([(0.4, 0.5, 0.6, 0.5)], [(OBJECT, 0, 0.15)]), boxes(OBJECT), labels(0))
    assert said.own is None


def test_an_own_box_witnesses_for_one_annotation_alone() -> None:
    """A neighbour's box does not excuse a shifted one."""
    neighbour: Box = (70, 40, 110, 80)
    shifted: Box = (60, 40, 100, 80)
    good, bad = judge(
        examined([(0.9, 0.95, 0.95, 0.9), (0.5, 0.7, 0.6, 0.8)], [(neighbour, 0, 0.9), (OBJECT, 0, 0.9)]),
        boxes(neighbour, shifted),
        labels(0, 0),
    )
    assert good.own is not None and good.own.box == neighbour
    assert bad.own is not None and bad.own.box == OBJECT
    assert bad.suspicion > good.suspicion


def test_of_two_annotations_of_one_object_the_worse_is_the_duplicate() -> None:
    first, second = judge(
        examined([(0.7, 0.8, 0.9, 0.9), (0.9, 0.95, 0.95, 0.95)], [(OBJECT, 0, 0.95)]),
        boxes((42, 42, 86, 86), OBJECT),
        labels(0, 0),
    )
    assert (first.verdict, first.twin) == ("duplicate", 1)
    assert (second.verdict, second.twin) == ("fine", None)
    assert first.suspicion >= 0.7


def test_the_same_box_twice_is_one_duplicate_even_in_two_classes() -> None:
    said = judge(
        examined([(0.9, 0.95, 0.95, 0.9)] * 2, [(OBJECT, 0, 0.95)], labels=[0, 1]),
        boxes(OBJECT, OBJECT),
        labels(0, 1),
    )
    assert sorted(each.verdict for each in said) == ["duplicate", "fine"]


def test_two_objects_that_overlap_are_no_duplicates() -> None:
    other: Box = (50, 40, 90, 80)  # IoU .6 with the first, and a box of the model's own
    said = judge(
        examined([(0.9, 0.95, 0.95, 0.9)] * 2, [(OBJECT, 0, 0.9), (other, 0, 0.9)]),
        boxes(OBJECT, other),
        labels(0, 0),
    )
    assert [each.verdict for each in said] == ["fine", "fine"]


def test_crowds_and_classes_left_out_are_not_judged() -> None:
    (said,) = judge(examined([(0.1, 0.1, 0.1, 0.0)], []), boxes(OBJECT), labels(NOT_JUDGED))
    assert (said.verdict, said.suspicion) == ("not judged", 0.0)


def test_a_head_without_purity_tells_kinds_by_the_models_own_box() -> None:
    seen = examined([(0.27, 0.0, 0.0, 0.6)], [(OBJECT, 0, 0.95)])
    object.__setattr__(seen.opinions, "purities", None)
    object.__setattr__(seen.opinions, "integrities", None)
    (said,) = judge(seen, boxes((20, 20, 100, 100)), labels(0))
    assert (said.verdict, said.purity) == ("loose", None)
    assert said.background == pytest.approx(0.75)


def test_an_object_without_an_annotation_is_missing() -> None:
    seen = examined([(0.9, 0.95, 0.95, 0.9)], [(OBJECT, 0, 0.95), ((150, 150, 190, 190), 1, 0.9)])
    (found,) = missing(seen, boxes(OBJECT), frozenset({0, 1}))
    assert found.own.box == (150, 150, 190, 190)
    assert found.suspicion == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("annotation", "own", "asked"),
    [
        (OBJECT, ((42, 42, 82, 82), 0, 0.95), {0}),  # it has one
        (OBJECT, ((60, 60, 100, 100), 0, 0.95), {0}),  # it has a bad one: that is what is reported
        ((0, 0, 200, 200), (OBJECT, 0, 0.95), {0}),  # inside a crowd, say
        ((50, 50, 60, 60), ((40, 40, 80, 80), 0, 0.95), {0}),  # around one that is far too small
        (OBJECT, ((150, 150, 190, 190), 0, 0.6), {0}),  # the model is not sure
        (OBJECT, ((150, 150, 190, 190), 1, 0.95), {0}),  # of a class that the data set does not have
    ],
)
def test_what_is_not_missing(annotation: Box, own: tuple[Box, int, float], asked: set[int]) -> None:
    seen = examined([(0.5, 0.5, 0.5, 0.5)], [own])
    assert missing(seen, boxes(annotation), frozenset(asked)) == []


def test_an_image_without_annotations_can_lack_some() -> None:
    seen = examined([], [(OBJECT, 0, 0.95)])
    assert judge(seen, boxes(), labels()) == []
    assert len(missing(seen, boxes(), frozenset({0}))) == 1
