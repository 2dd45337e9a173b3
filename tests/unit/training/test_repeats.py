"""Class-balanced sampling shows images of rare classes more often, and the same ones again after a resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hindsight.artifact import ResizeRule
from tests.unit.training.data_sets import voc_object, write_voc
from training.data import Augment, Dataset, TrainLoader, open_dataset
from training.data.repeats import draw_repeats, repeat_factors


@pytest.fixture
def uneven(tmp_path: Path) -> Dataset:
    """Eight images of the common class, one of which also holds the rare one."""
    common, rare = voc_object("common", 1, 1, 20, 20), voc_object("rare", 31, 1, 50, 20)
    images = {f"i{n}": [common] for n in range(7)} | {"z": [common, rare]}
    return open_dataset(write_voc(tmp_path / "set", images))


def test_a_rare_class_asks_for_more_showings(uneven: Dataset) -> None:
    factors = repeat_factors(uneven, 0.5)  # the rare class is in 1/8 of the images: sqrt(.5 / .125) = 2
    assert sorted(factors.tolist()) == pytest.approx([1.0] * 7 + [2.0])
    assert repeat_factors(uneven, 0.0).tolist() == [1.0] * 8


def test_fractions_fall_to_chance_and_average_out() -> None:
    factors = np.array([1.0, 1.5, 2.25, 1.25])
    rng = np.random.default_rng(0)
    counts = np.mean([np.bincount(draw_repeats(factors, rng), minlength=4) for _ in range(3000)], axis=0)
    np.testing.assert_allclose(counts, factors, atol=0.05)
    assert {len(draw_repeats(factors, rng)) for _ in range(20)} == {6}


def test_an_epoch_is_as_long_as_the_showings_and_every_image_is_in_it(uneven: Dataset) -> None:
    loader = TrainLoader(uneven, 3, ResizeRule(48, 64), Augment(), repeat_threshold=0.5)
    assert len(loader) == 9 // 3
    order = loader.order(0)
    assert len(order) == 9 and set(order) == set(range(8))
    assert order == loader.order(0) and order != loader.order(1)
    plain = TrainLoader(uneven, 3, ResizeRule(48, 64), Augment())
    assert sorted(plain.order(0)) == list(range(8))


def test_a_threshold_that_is_no_share_is_refused(uneven: Dataset) -> None:
    with pytest.raises(ValueError, match=r"repeat_threshold must lie in 0\.\.1"):
        repeat_factors(uneven, 1.5)
