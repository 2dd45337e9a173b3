"""The image-paired bootstrap: exact where systems are equal, right where they differ, honest."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.evaluation.localization import pearson
from training.experiments.bootstrap import (
    CONTRADICTED,
    DROPPED,
    INCONCLUSIVE,
    SUPPORTED,
    Estimate,
    image_weights,
    mean_samples,
    pearson_samples,
    pooled,
    verdict,
)

ROWS_PER_IMAGE = 6


def drawn(rng: np.random.Generator, images: int, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of all rows; y follows x, and images differ."""
    image = np.repeat(np.arange(images), ROWS_PER_IMAGE)
    x = rng.normal(size=images)[image] + rng.normal(size=len(image))
    return x, x + noise * rng.normal(size=len(x))


def image_of(images: int) -> np.ndarray:
    return np.repeat(np.arange(images), ROWS_PER_IMAGE)


def test_the_first_row_is_the_set_and_every_other_draws_as_many_images() -> None:
    weights = image_weights(7, 50, seed=3)
    assert weights.shape == (51, 7)
    assert (weights[0] == 1).all() and (weights.sum(axis=1) == 7).all() and (weights >= 0).all()
    assert (weights[1:] != 1).any()
    np.testing.assert_array_equal(weights, image_weights(7, 50, seed=3))
    with pytest.raises(ValueError, match="at least one image"):
        image_weights(0, 5)


def test_correlations_of_resamples_are_those_of_the_resampled_rows() -> None:
    rng = np.random.default_rng(0)
    x, y = drawn(rng, 12)
    image, weights = image_of(12), image_weights(12, 20)
    found = pearson_samples(x, y, image, weights)
    means = mean_samples(y, image, weights)
    for row, draw in enumerate(weights):
        rows = np.repeat(np.arange(len(x)), draw[image])
        assert found[row] == pytest.approx(pearson(x[rows], y[rows]), abs=1e-12)
        assert means[row] == pytest.approx(y[rows].mean(), abs=1e-12)


def test_a_correlation_that_means_nothing_is_undefined() -> None:
    image, weights = image_of(3), image_weights(3, 10)
    y = np.arange(18.0)
    assert np.isnan(pearson_samples(np.full(18, 0.3), y, image, weights)).all()
    assert np.isnan(pearson_samples(np.zeros(0), np.zeros(0), image[:0], weights)).all()
    two_rows = pearson_samples(np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.array([0, 1]), weights)
    assert math.isnan(two_rows[0])


def test_equal_systems_differ_by_exactly_nothing() -> None:
    x, y = drawn(np.random.default_rng(1), 20)
    samples = pearson_samples(x, y, image_of(20), image_weights(20, 200))
    difference = pooled(np.stack([samples - samples, samples - samples]))
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert verdict(difference, None, None) == INCONCLUSIVE


def test_a_known_shift_is_detected_and_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(2)
    images = 60
    hardness = rng.normal(size=images)[image_of(images)]
    worse = hardness + 0.1 * rng.normal(size=len(hardness))
    better = worse + 0.05 + 0.02 * rng.normal(size=len(hardness))
    image, weights = image_of(images), image_weights(images, 500)
    a, b = mean_samples(better, image, weights), mean_samples(worse, image, weights)
    paired = pooled((a - b)[None])
    assert paired.low is not None and paired.high is not None and paired.half_width is not None
    assert paired.low < 0.05 < paired.high and paired.low > 0.04
    assert verdict(paired, 0.05, paired.half_width) == SUPPORTED
    assert verdict(pooled((b - a)[None]), 0.05, None) == CONTRADICTED
    alone = pooled(a[None]).half_width
    assert alone is not None and alone > 10 * paired.half_width


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    noise = 0.7
    truth = math.sqrt(2) / math.sqrt(2 + noise**2)
    covered, runs = 0, 150
    for run in range(runs):
        x, y = drawn(rng, 60, noise)
        samples = pearson_samples(x, y, image_of(60), image_weights(60, 200, seed=run))
        found = pooled(samples[None], seed=run)
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / runs <= 0.99


def test_seeds_are_drawn_too_so_that_their_spread_widens_the_interval() -> None:
    rng = np.random.default_rng(5)
    same = 0.1 + 0.01 * rng.normal(size=(2, 401))
    apart = same + np.array([[-0.2], [0.2]])
    narrow, wide = pooled(same), pooled(apart)
    assert narrow.low is not None and narrow.low > 0.05
    assert wide.low is not None and wide.high is not None and wide.low < -0.05 and wide.high > 0.25
    assert wide.value == pytest.approx(float(apart[:, 0].mean()))
    assert wide.per_seed == (pytest.approx(apart[0, 0]), pytest.approx(apart[1, 0]))


def test_too_many_undefined_resamples_leave_no_interval() -> None:
    samples = np.full((1, 101), 0.5)
    samples[0, 1:4] = np.nan
    assert pooled(samples).low == 0.5
    samples[0, 4:20] = np.nan
    found = pooled(samples)
    assert (found.value, found.low, found.half_width) == (0.5, None, None)
    assert verdict(found, None, None) == INCONCLUSIVE
    samples[0, 0] = np.nan
    assert pooled(samples).value is None


def test_a_seed_undefined_where_it_was_not_drawn_spoils_nothing() -> None:
    samples = np.stack([np.full(101, 0.5), np.full(101, 0.7)])
    samples[1, 1:] = np.nan
    found = pooled(samples, seed=1)  # a quarter of the resamples draw the first seed alone
    assert found.value == pytest.approx(0.6) and found.low is None


@pytest.mark.parametrize(
    ("low", "high", "expected", "pilot", "said"),
    [
        (0.01, 0.03, 0.02, 0.01, SUPPORTED),
        (0.01, 0.03, None, 0.5, SUPPORTED),
        (0.01, 0.03, 0.02, None, SUPPORTED),
        (-0.03, -0.01, 0.02, 0.01, CONTRADICTED),
        (-0.01, 0.03, 0.02, 0.01, INCONCLUSIVE),
        (0.0, 0.03, 0.02, 0.01, INCONCLUSIVE),
        (-0.03, 0.0, 0.02, 0.01, INCONCLUSIVE),
        (0.01, 0.03, 0.02, 0.021, DROPPED),
        (-0.03, -0.01, 0.02, 0.021, DROPPED),
        (0.01, 0.03, 0.02, 0.02, SUPPORTED),
    ],
)
def test_verdicts(low: float, high: float, expected: float | None, pilot: float | None, said: str) -> None:
    assert verdict(Estimate((low + high) / 2, low, high, ()), expected, pilot) == said
