"""Heads on a frozen host, the table they fill, and the watch on regression."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hindsight.artifact import ResizeRule
from hindsight.errors import OptionError
from model.checkpoint import CheckpointError
from tests.unit.model.toys import toy_detector
from tests.unit.training.data_sets import voc_object, write_voc
from training.data import Dataset, open_dataset
from training.evaluation import run_checkpoint
from training.experiments import heads as heads_module
from training.experiments.bootstrap import image_weights
from training.experiments.heads import HEADS, fit_heads, head_of, steps_of
from training.experiments.judging import ranked
from training.experiments.regression import OWN, SAME, RegressionWatch, load_epochs, regression_samples
from training.experiments.scoring import write_table
from training.experiments.table import load_table
from training.loop import LAST, Run, train
from training.recipe import Optimisation, Recipe

RULE = ResizeRule(64, 96)
HEADS_RECIPE = Recipe(
    "faster_rcnn_dir",
    detector={"localization": {"width": 8}},
    resize=RULE,
    optimisation=Optimisation(
        optimiser="adamw", lr=0.01, batch_size=2, epochs=3, warmup_steps=1, schedule="cosine"
    ),
)
HOST = Recipe(
    "faster_rcnn",
    "test_efficientnet",
    {
        "backbone": {"min_level": 3, "fpn_channels": 8, "frozen_levels": 0},
        "rpn": {
            "anchor_sizes": [12, 24, 48, 96],
            "pre_nms_train": 40,
            "post_nms_train": 20,
            "post_nms_test": 20,
        },
        "head": {"width": 8, "batch_per_image": 8, "class_specific_first": False},
    },
    resize=RULE,
    optimisation=Optimisation(optimiser="adamw", lr=0.005, batch_size=2, epochs=3, warmup_steps=1),
)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    objects = [voc_object("cell", 6, 4, 40, 40), voc_object("dust", 30, 10, 60, 44)]
    objects += [voc_object("mote", 60, 20, 90, 60, difficult=1)]
    folder = write_voc(tmp_path / "voc", {name: objects for name in "abcd"}, size_wh=(96, 64))
    return open_dataset(folder, split="train")


def host() -> Any:
    """Class-agnostic Faster R-CNN without a localization head."""
    config = toy_detector(localization=None).config
    head = replace(config.head, kind="shared", stages=1)
    return toy_detector(localization=None, head=head, max_detections=100)


def fitted(data: Dataset, folder: Path, detector: Any = None, **changes: Any) -> dict[str, torch.Tensor]:
    made = fit_heads(detector or host(), "abc", data, HEADS_RECIPE, folder, 0, workers=0, **changes)
    return {key: value.clone() for key, value in made.state_dict().items()}


def test_fitting_moves_every_head_and_leaves_the_host(data: Dataset, tmp_path: Path) -> None:
    detector = host()
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    losses: list[dict[str, float]] = []
    longer = replace(HEADS_RECIPE, optimisation=replace(HEADS_RECIPE.optimisation, epochs=8))
    heads = fit_heads(
        detector, "abc", data, longer, tmp_path / "heads", 0, workers=0, step_done=losses.append
    )
    assert len(losses) == steps_of(data, longer) == 16 and set(losses[0]) == set(HEADS)
    assert all(torch.equal(before[key], value) for key, value in detector.state_dict().items())
    fresh = heads_module.build_heads(detector, 8, 0)
    for name in HEADS:
        assert np.mean([step[name] for step in losses[:4]]) > np.mean([step[name] for step in losses[-4:]])
        ours, theirs = head_of(heads, name).state_dict(), head_of(fresh, name).state_dict()
        assert all(not torch.equal(ours[key], theirs[key]) for key in ours if key.endswith("weight"))


def test_a_broken_fit_goes_on_to_the_same_heads(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted(data, tmp_path / "whole")
    honest, calls = heads_module.positives_of, [0]

    def interrupted(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return honest(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(heads_module, "positives_of", interrupted)
        fitted(data, tmp_path / "broken")
    resumed = fitted(data, tmp_path / "broken")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    with pytest.raises(CheckpointError, match="can't resume: host was 'abc'"):
        fit_heads(host(), "other", data, HEADS_RECIPE, tmp_path / "broken", 0, workers=0)


def test_a_head_learns_the_same_with_and_without_the_others(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = fitted(data, tmp_path / "together")
    with monkeypatch.context() as patch:
        patch.setattr(heads_module, "HEADS", {"control": HEADS["control"]})
        alone = fitted(data, tmp_path / "alone")
    assert alone
    for key, value in alone.items():
        torch.testing.assert_close(value, together[key])


def test_the_table_ranks_as_the_detector_does(data: Dataset, tmp_path: Path) -> None:
    detector = host()
    heads = fit_heads(detector, "abc", data, HEADS_RECIPE, tmp_path / "heads", 0, workers=0)
    path = tmp_path / "table.npz"
    made = write_table(detector, heads, data, RULE, path, {"host": "abc"}, batch_size=3)
    run = run_checkpoint(detector, data, RULE, 3, (0.0,), with_rows=False)
    ours, theirs = (
        sorted(images, key=lambda image: image.image_id)
        for images in (ranked(made, "class score"), run.predictions[0.0])
    )
    assert sum(len(image) for image in ours) > 100
    for a, b in zip(ours, theirs, strict=True):
        assert a.image_id == b.image_id and a.labels.tolist() == b.labels.tolist()
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-3)
    assert set(made.judged) == {
        *(f"{head}/{HEADS[head][1]}/iou" for head in HEADS),
        *(f"{h}/{f}/{q}" for h in ("hindsight-pi", "foresight-pi") for f in ("box", "proposal") for q in
          ("iou", "purity", "integrity")),
    }  # fmt: skip
    assert (made.boxes != made.proposals).any() and made.truth_crowd.sum() == len(data)
    read = load_table(path, {"host": "abc"})
    assert read is not None and read.digest() == made.digest()
    np.testing.assert_array_equal(
        read.column("control", "box").astype(np.float32), made.judged["control/box/iou"]
    )
    with pytest.raises(KeyError):
        read.column("control", "box", "purity")
    with pytest.raises(OptionError, match="choose another --out"):
        load_table(path, {"host": "def"})
    path.write_bytes(b"no table")
    with pytest.raises(OptionError, match="is no table of this version"):
        load_table(path, {"host": "abc"})
    assert load_table(tmp_path / "none.npz", {}) is None


def test_class_specific_regression_is_refused(data: Dataset, tmp_path: Path) -> None:
    detector = host()
    heads = fit_heads(detector, "abc", data, HEADS_RECIPE, tmp_path / "heads", 0, workers=0)
    config = replace(detector.config.head, class_specific_first=True)
    specific = toy_detector(localization=None, head=config)
    with pytest.raises(ValueError, match="class-agnostic"):
        write_table(specific, heads, data, RULE, tmp_path / "t.npz", {})


def test_watching_changes_nothing_and_shows_the_same_proposals(data: Dataset, tmp_path: Path) -> None:
    watch = RegressionWatch(data, RULE, tmp_path / "record", images=3)
    train(Run(HOST, data, tmp_path / "plain", weights="none", quiet=True, workers=0))
    train(Run(HOST, data, tmp_path / "watched", weights="none", quiet=True, workers=0, watch=watch))
    losses = [(tmp_path / name / "losses.csv").read_text() for name in ("plain", "watched")]
    assert losses[0] == losses[1]
    assert (tmp_path / "plain" / LAST).stat().st_size == (tmp_path / "watched" / LAST).stat().st_size
    records = load_epochs(tmp_path / "record", 3)
    first, *later = records[SAME]
    assert len(first.before) > 10 and (first.before >= 0.5).all() and set(first.image) == {0, 1, 2}
    for epoch in later:
        np.testing.assert_array_equal(epoch.before, first.before)
        assert (epoch.after != first.after).any()
    assert all((epoch.before >= 0.5).all() for epoch in records[OWN])
    with pytest.raises(OptionError, match="no record of epoch 4"):
        load_epochs(tmp_path / "record", 4)


def test_the_changes_of_iou_are_averaged_over_proposals(data: Dataset, tmp_path: Path) -> None:
    watch = RegressionWatch(data, RULE, tmp_path, images=3)
    for epoch in (1, 2, 3):
        with torch.no_grad():
            watch(toy_detector(seed=epoch), epoch)
    records = load_epochs(tmp_path, 3)
    found = regression_samples(records, image_weights(3, 5))
    same = records[SAME]
    changes = found["mean change of IoU"]
    assert changes["same proposals, last epoch"][0] == pytest.approx(same[2].change.mean())
    assert changes["same proposals, first epoch"][0] == pytest.approx(same[0].change.mean())
    assert (changes["no change"] == 0).all()
    between = found["change between epochs"]
    assert between["first half of training"][0] == pytest.approx(np.abs(same[1].after - same[0].after).mean())
    assert between["second half of training"][0] == pytest.approx(
        np.abs(same[2].after - same[1].after).mean()
    )
    with pytest.raises(OptionError, match="at least 3, the host had 2"):
        regression_samples({kind: epochs[:2] for kind, epochs in records.items()}, image_weights(3, 5))
