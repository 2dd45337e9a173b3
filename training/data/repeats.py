"""Class-balanced sampling: images of rare classes are shown more often.

Repeat-factor sampling (Gupta et al., LVIS, 2019): a class held by a share f of the images asks for
max(1, sqrt(threshold / f)) showings of each; an image is shown as often as its most demanding class asks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset


def repeat_factors(dataset: Dataset, threshold: float) -> NDArray[np.float64]:
    """[images] showings an epoch, at least 1. A threshold of 0 shows every image once."""
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"repeat_threshold must lie in 0..1, got {threshold}")
    held = np.zeros((len(dataset), len(dataset.class_names)), dtype=bool)
    for index in range(len(dataset)):
        sample = dataset.annotations(index)
        held[index, sample.labels[~sample.crowd]] = True
    share = held.mean(axis=0)
    asked = np.sqrt(threshold / np.maximum(share, 1e-12))
    most: NDArray[np.float64] = np.where(held, asked, 1.0).max(axis=1, initial=1.0)
    return most


def draw_repeats(factors: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Dataset indices of one epoch, int(sum of factors) of them: fractions of a showing fall to chance."""
    total = int(factors.sum())
    whole = np.floor(factors).astype(np.int64)
    indices = np.repeat(np.arange(len(factors)), whole)
    missing = total - len(indices)
    fractions = factors - whole
    if missing > 0:
        extra = rng.choice(len(factors), size=missing, replace=False, p=fractions / fractions.sum())
        indices = np.concatenate([indices, extra])
    return indices
