"""Learning rate as a pure function of the step: a resumed run needs nothing but the step number."""

from __future__ import annotations

import math

from training.recipe import Optimisation


def learning_rate(recipe: Optimisation, step: int, steps_per_epoch: int) -> float:
    """Rate for `step` (from 0): linear warm-up from lr * warmup_factor, then steps or a cosine to 0."""
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "cosine":
        rate = recipe.lr * 0.5 * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0)))
    else:
        epoch = step // max(steps_per_epoch, 1)
        rate = recipe.lr * recipe.gamma ** sum(epoch >= milestone for milestone in recipe.milestones)
    # a run shorter than its warm-up would never leave it
    warmup = min(recipe.warmup_steps, total // 4)
    if step < warmup:
        rate *= recipe.warmup_factor + (1 - recipe.warmup_factor) * step / warmup
    return rate
