"""The loop's own promises: a NaN stops it by name, padding to bf16 works, the average follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hindsight.artifact import ResizeRule
from hindsight.datasets.records import Record
from model.checkpoint import load_checkpoint
from model.detector import TwoStageDetector
from training.data.dataset import Dataset
from training.loop import Run, TrainingStopped, train
from training.recipe import Optimisation, Recipe
from training.state import MovingAverage
from training.team import Team, TeamError

TOY: dict[str, dict[str, object]] = {
    "backbone": {"min_level": 3, "fpn_channels": 8, "frozen_levels": 3},
    "rpn": {"anchor_sizes": [16, 32, 64, 128], "pre_nms_train": 40, "post_nms_train": 20},
    "head": {"width": 8, "batch_per_image": 8, "regression_batch_per_image": 8},
    "localization": {"width": 8, "jitter_per_truth": 1},
}


def toy_recipe(**optimisation: object) -> Recipe:
    return Recipe(
        "hindsight",
        "tf_efficientnet_lite0",
        TOY,
        ResizeRule(64, 64),
        optimisation=Optimisation(**{"epochs": 1, "batch_size": 2, "lr": 0.001, **optimisation}),  # type: ignore[arg-type]
    )


@pytest.fixture
def toy_set(tmp_path: Path) -> Dataset:
    from PIL import Image

    records = []
    for i in range(2):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((64, 64, 3), 60 * i, dtype=np.uint8)).save(path)
        boxes = np.array([[8, 8, 40, 40]], dtype=np.float32)
        records.append(
            Record(
                image_id=40 + i,
                path=path,
                image_hw=(64, 64),
                boxes=boxes,
                labels=np.zeros(1, dtype=np.int64),
                crowd=np.zeros(1, dtype=bool),
                area=np.full(1, 1024, dtype=np.float32),
                raw_rows=np.zeros(1, dtype=np.int64),
            )
        )
    return Dataset(records, ("square",))


def test_nan_stops_with_the_loss_and_the_batch(
    toy_set: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = TwoStageDetector.losses

    def poisoned(self: TwoStageDetector, *args: object) -> dict[str, torch.Tensor]:
        losses = honest(self, *args)  # type: ignore[arg-type]
        return {**losses, "purity": losses["purity"] * float("nan")}

    monkeypatch.setattr(TwoStageDetector, "losses", poisoned)
    with pytest.raises(TrainingStopped, match=r"loss 'purity' became nan at step 0 .*images (40, 41|41, 40)"):
        train(Run(toy_recipe(), toy_set, tmp_path / "out", quiet=True, workers=0))


def test_bf16_training_runs_and_saves_full_precision(toy_set: Dataset, tmp_path: Path) -> None:
    train(Run(toy_recipe(amp="bf16"), toy_set, tmp_path / "out", quiet=True, workers=0))
    detector, extra = load_checkpoint(tmp_path / "out" / "last.safetensors")
    assert {p.dtype for p in detector.parameters()} == {torch.float32}
    assert extra["class_names"] == ["square"]
    assert extra["resize"]["short_side"] == 64


def test_validation_does_not_change_what_is_trained(toy_set: Dataset, tmp_path: Path) -> None:
    """The same weights with and without a validation that draws random numbers and scores the average."""

    def figures(detector: TwoStageDetector) -> dict[str, float]:
        assert not detector.training
        return {"AP": float(torch.rand(()))}

    weights = []
    for name, validate in (("with", figures), ("without", None)):
        recipe = toy_recipe(epochs=2, ema_decay=0.9)
        train(Run(recipe, toy_set, tmp_path / name, validate, quiet=True, workers=0))
        weights.append(load_checkpoint(tmp_path / name / "last.safetensors")[0].state_dict())
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key
    assert (tmp_path / "with" / "best.safetensors").exists()


def test_the_moving_average_lags_behind_the_weights() -> None:
    detector = TwoStageDetector(toy_recipe().detector_config(1))
    average = MovingAverage(detector, 0.9)
    name, parameter = next(iter(detector.named_parameters()))
    start = parameter.detach().clone()
    with torch.no_grad():
        parameter += 1
    average.update(detector, step=1000)
    torch.testing.assert_close(average.weights[name], start + 0.1)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    toy_set: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser: str
) -> None:
    recipe = toy_recipe(epochs=3, batch_size=1, optimiser=optimiser, ema_decay=0.9)
    train(Run(recipe, toy_set, tmp_path / "unbroken", quiet=True, workers=0))
    honest, calls = TwoStageDetector.losses, [0]

    def interrupted(self: TwoStageDetector, *args: object) -> dict[str, torch.Tensor]:
        calls[0] += 1
        if calls[0] == 4:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return honest(self, *args)  # type: ignore[arg-type]

    broken = Run(recipe, toy_set, tmp_path / "broken", quiet=True, workers=0, save_every=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TwoStageDetector, "losses", interrupted)
        train(broken)
    train(replace(broken, resume=True))
    ends = [
        load_checkpoint(tmp_path / n / "last.safetensors")[0].state_dict() for n in ("unbroken", "broken")
    ]
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key


def test_a_batch_in_parts_makes_the_step_of_the_whole(toy_set: Dataset, tmp_path: Path) -> None:
    """Exactly, where each part counts the same: twice one image, every box in the sample, none jittered."""
    record = replace(toy_set._records[0], image_id=1)
    twins = Dataset([record, replace(record, image_id=2)], ("square",))
    parts = {**TOY, "localization": {"width": 8, "jitter_per_truth": 0}}
    parts["head"] = {"width": 8, "batch_per_image": 500, "regression_batch_per_image": 500}
    parts["rpn"] = {**TOY["rpn"], "batch_per_image": 10_000}
    weights = []
    for name, accumulate in (("whole", 1), ("parts", 2)):
        recipe = replace(toy_recipe(accumulate=accumulate, lr=0.05), detector=parts)
        train(Run(recipe, twins, tmp_path / name, quiet=True, workers=0))
        weights.append(load_checkpoint(tmp_path / name / "last.safetensors")[0].state_dict())
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], atol=1e-5, rtol=1e-3, msg=key)


def test_a_batch_that_processes_cannot_share_evenly_is_refused(toy_set: Dataset, tmp_path: Path) -> None:
    run = Run(toy_recipe(), toy_set, tmp_path / "out", quiet=True, workers=0, team=Team(rank=0, size=3))
    with pytest.raises(TeamError, match="2 images in 1 parts can't be shared evenly by 3 processes"):
        train(run)
