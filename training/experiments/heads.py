"""Five localization heads, fitted together on one frozen host: same batches, same boxes, same features.

No gradient reaches the host, so the heads cannot influence each other, and the features of a batch are
computed once for all. P: positive boxes of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import LocalizationConfig
from model.detector import TwoStageDetector
from model.localization import DirectIouHead, LocalizationHead, build_localization
from training.data import Batch, Dataset, TrainLoader
from training.loop import TrainingStopped
from training.optimisers import build_optimiser, set_rate
from training.recipe import Recipe
from training.schedule import learning_rate
from training.state import Progress, load_state, save_state

BOX, PROPOSAL = "box", "proposal"

# name -> (kind, features it is trained on); foresight reads the proposal, hindsight the regressed box
HEADS: dict[str, tuple[str, str]] = {
    "hindsight-pi": ("purity_integrity", BOX),
    "foresight-pi": ("purity_integrity", PROPOSAL),
    "hindsight-iou": ("iou", BOX),
    "foresight-iou": ("iou", PROPOSAL),
    "control": ("iou_control", BOX),
}
Head = LocalizationHead | DirectIouHead
Step = Callable[[dict[str, float]], None]  # called after every step with each head's loss


class Positives(NamedTuple):
    """What a batch gives to all heads: features [P, ch, s, s] of both kinds, boxes and truths [P, 4]."""

    features: dict[str, Tensor]
    boxes: Tensor
    truths: Tensor


def build_heads(detector: TwoStageDetector, width: int, seed: int) -> nn.ModuleDict:
    """New heads; those of one kind start from the same weights."""
    config = detector.config
    pooled = config.backbone.fpn_channels * config.pooling.output_size**2
    heads = {}
    for name, (kind, features) in HEADS.items():
        torch.manual_seed(seed)
        own = LocalizationConfig(kind, width, features, features, jitter_per_truth=0)
        heads[name] = build_localization(pooled, own)
    return nn.ModuleDict(heads)


def fit_heads(
    detector: TwoStageDetector,
    host_sha256: str,
    train_set: Dataset,
    recipe: Recipe,
    folder: Path,
    seed: int,
    *,
    device: str = "cpu",
    workers: int = 2,
    step_done: Step | None = None,
) -> nn.ModuleDict:
    """The fitted heads, in evaluation mode. The state of every finished epoch is kept in `folder`: called
    again, it goes on after the last one. `recipe`: its [optimisation], its localization width, and the images
    as the host's recipe shows them.

    Raises CheckpointError if `folder` holds heads of other settings, TrainingStopped for a loss that is not
    finite.
    """
    optimisation = recipe.optimisation
    freeze(detector)
    heads = build_heads(detector, _width(recipe), seed).to(device)
    optimiser = build_optimiser(heads, optimisation)
    loader = TrainLoader(train_set, optimisation.batch_size, recipe.resize, recipe.augment, seed, workers)
    fingerprint = {
        "recipe": asdict(recipe),
        "host": host_sha256,
        "images": [record.path.name for record in train_set.records],
        "seed": seed,
    }
    state = folder / "heads.safetensors"
    progress = Progress()
    if state.exists():
        progress = load_state(state, heads, optimiser, None, fingerprint)
    else:
        torch.manual_seed(seed)  # of the positives that are drawn
    while progress.epoch < optimisation.epochs:
        for batch in loader.epoch(progress.epoch):
            set_rate(optimiser, learning_rate(optimisation, progress.step, len(loader)))
            shown = _step(heads, optimiser, positives_of(detector, batch, device), optimisation.clip_norm)
            for name, value in shown.items():
                if value != value:
                    raise TrainingStopped(f"the loss of head {name!r} is not a number at {progress}")
            progress = replace(progress, step=progress.step + 1)
            if step_done is not None:
                step_done(shown)
        progress = replace(progress, epoch=progress.epoch + 1)
        save_state(state, heads, optimiser, None, progress, fingerprint)
    return heads.eval()


def steps_of(train_set: Dataset, recipe: Recipe) -> int:
    """How often fit_heads will call `step_done` from the start."""
    batch = min(recipe.optimisation.batch_size, len(train_set))
    return recipe.optimisation.epochs * (len(train_set) // batch)


def freeze(detector: TwoStageDetector) -> None:
    """Evaluation mode, no gradients; as many proposals as in training: positives are drawn from them."""
    detector.requires_grad_(False)
    detector.eval()
    detector.rpn.train()


@torch.no_grad()
def positives_of(detector: TwoStageDetector, batch: Batch, device: str = "cpu") -> Positives:
    """The boxes that the host regresses from the positives it would train on, with both kinds of features."""
    images, sizes = batch.images.to(device), batch.image_sizes.to(device)
    targets = [target.to(device) for target in batch.targets]
    pyramid = detector.extract(images, sizes)
    rois = detector.rois(pyramid)
    proposals = detector.propose(pyramid, images, sizes)
    found = detector.head.positives(rois, [proposals], targets, sizes)
    features = {BOX: rois.ragged(found.boxes), PROPOSAL: rois.ragged(found.sources)}
    return Positives(features, torch.cat(found.boxes), torch.cat(found.truths))


def _step(
    heads: nn.ModuleDict, optimiser: torch.optim.Optimizer, seen: Positives, clip_norm: float
) -> dict[str, float]:
    optimiser.zero_grad(set_to_none=True)
    shown = {}
    for name, (_, features) in HEADS.items():
        head = head_of(heads, name)
        loss = torch.stack(list(head.losses(seen.features[features], seen.boxes, seen.truths).values())).sum()
        loss.backward()
        # each head by its own norm: one that is far off must not slow the others down
        nn.utils.clip_grad_norm_(head.parameters(), clip_norm)
        shown[name] = float(loss.detach())
    optimiser.step()
    return shown


def head_of(heads: nn.ModuleDict, name: str) -> Head:
    """The head, typed."""
    head = heads[name]
    assert isinstance(head, LocalizationHead | DirectIouHead)
    return head


def _width(recipe: Recipe) -> int:
    config = recipe.detector_config(1).localization
    return (config or LocalizationConfig()).width
