"""The image-paired bootstrap: intervals for differences between two systems on the same images.

A statistic is measured on the whole set and on many resamples of its images; a resample is a row of integer
weights, how often each image was drawn. Both systems of a comparison get the same weights, so what makes an
image hard for both cancels out. Seeds are pooled hierarchically: a resample also draws the seeds with
replacement, and all drawn seeds share its images, for the test set is one.

I: images; R: resamples; S: seeds. Samples are [1 + R]: the first is the whole set's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hindsight.overlap import Array
from training.evaluation.localization import MIN_ROWS

CONFIDENCE = 0.95
MAX_UNDEFINED = 0.05  # share of resamples on which a statistic may be undefined
_IMAGE_STREAM, _SEED_STREAM = 0, 1

SUPPORTED, CONTRADICTED, INCONCLUSIVE, DROPPED = "supported", "contradicted", "inconclusive", "dropped"


@dataclass(frozen=True)
class Estimate:
    """A pooled value with its interval; None where too many resamples leave it undefined."""

    value: float | None
    low: float | None
    high: float | None
    per_seed: tuple[float | None, ...]

    @property
    def half_width(self) -> float | None:
        """Half of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def image_weights(images: int, resamples: int, seed: int = 0) -> NDArray[np.int64]:
    """[1 + R, I]: ones, the set itself, then how often each resample draws each image."""
    if images < 1:
        raise ValueError("a bootstrap needs at least one image")
    rng = np.random.default_rng([seed, _IMAGE_STREAM])
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=resamples)
    return np.concatenate([np.ones((1, images), np.int64), drawn])


def pooled(samples: Array, seed: int = 0) -> Estimate:
    """The estimate over seeds: samples [S, 1 + R], NaN where undefined."""
    seeds, count = samples.shape[0], samples.shape[1] - 1
    rng = np.random.default_rng([seed, _SEED_STREAM])
    shares = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count).T / seeds  # [S, R]
    # a seed that was not drawn must not spoil the resample on which it is undefined
    parts = np.where(shares > 0, samples[:, 1:] * shares, 0.0).sum(axis=0)
    whole = float(samples[:, 0].mean())
    per_seed = tuple(_defined(value) for value in samples[:, 0])
    missing = np.isnan(parts)
    if count == 0 or np.isnan(whole) or missing.mean() > MAX_UNDEFINED:
        return Estimate(_defined(whole), None, None, per_seed)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(parts[~missing], [tail, 1 - tail])
    return Estimate(whole, float(low), float(high), per_seed)


def verdict(difference: Estimate, expected: float | None, pilot_half_width: float | None) -> str:
    """What an estimate of better - worse says of the claim that better > worse.

    `expected`: the paper's difference, None where it prints none; `pilot_half_width`: None without a pilot.
    """
    if expected is not None and pilot_half_width is not None and expected < pilot_half_width:
        return DROPPED
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return INCONCLUSIVE
    return SUPPORTED if difference.low > 0 else CONTRADICTED


def pearson_samples(x: Array, y: Array, image: NDArray[np.int64], weights: NDArray[np.int64]) -> Array:
    """Correlation of columns [n] on every row of weights [1 + R, I]; `image` [n] says whose row it is.

    NaN with fewer than MIN_ROWS rows, or where a column is constant.
    """
    if not len(x):
        return np.full(len(weights), np.nan)
    x, y = x - x.mean(), y - y.mean()
    terms = (np.ones_like(x), x, y, x * x, y * y, x * y)
    n, sx, sy, sxx, syy, sxy = (_per_image(term, image, weights) for term in terms)
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = sxy - sx * sy / n
        variance_x, variance_y = sxx - sx**2 / n, syy - sy**2 / n
        # what rounding leaves of the variance of a constant column
        varied = (variance_x > 1e-12 * sxx) & (variance_y > 1e-12 * syy) & (n >= MIN_ROWS)
        r = covariance / np.sqrt(variance_x * variance_y)
    result: Array = np.where(varied, np.clip(r, -1, 1), np.nan)
    return result


def mean_samples(values: Array, image: NDArray[np.int64], weights: NDArray[np.int64]) -> Array:
    """Mean of a column [n] on every row of weights [1 + R, I]; NaN without rows."""
    total, count = (_per_image(term, image, weights) for term in (values, np.ones_like(values)))
    result: Array = np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)
    return result


def _per_image(values: Array, image: NDArray[np.int64], weights: NDArray[np.int64]) -> Array:
    sums = np.bincount(image, weights=values, minlength=weights.shape[1])
    result: Array = weights.astype(np.float64) @ sums
    return result


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
