"""Claims 5 and 6: detectors that differ in one setting, each trained on its own; a GPU's work at full size.

I: images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import OptionError
from training.data import Dataset
from training.evaluation.predict import IOU_WEIGHT, Progress, run_checkpoint
from training.evaluation.predictions import ImagePredictions
from training.experiments.files import write_npz
from training.experiments.host import Machine, load_host, train_host
from training.experiments.judging import Samples
from training.experiments.matching import Truths, match_classes
from training.experiments.sampled_ap import ap_samples
from training.experiments.table import fingerprint
from training.recipe import Recipe

Bar = Callable[[], AbstractContextManager[Progress | None]]


@dataclass(frozen=True)
class Arm:
    """One system: what it changes in the base recipe, how it ranks. Arms of one `training` share a run."""

    training: str
    model: str = "decoupled_rcnn"
    changes: Mapping[str, Any] = field(default_factory=dict)  # of [detector]
    iou_weight: float = 0.0


def _one_stage(nms_reg: float, **head: Any) -> dict[str, Any]:
    return {"rpn": {"nms_threshold_regression": nms_reg}, "head": {"stages": 1, **head}}


ARMS = {
    "shared FC": Arm("shared-fc", changes=_one_stage(0.7, share_trunk=True)),
    "NMS_reg .7": Arm("nms-70", changes=_one_stage(0.7)),
    "NMS_reg .85": Arm("nms-85", changes=_one_stage(0.85)),
    "three stages": Arm("three-stages", changes={"head": {"stages": 3, "loss_weight": 1.0}}),
    "without DIR": Arm("without-dir", changes={"head": {"stages": 3}}),
    "with DIR, class score": Arm("with-dir", "decoupled_rcnn_dir", {"head": {"stages": 3}}),
    "with DIR": Arm("with-dir", "decoupled_rcnn_dir", {"head": {"stages": 3}}, IOU_WEIGHT),
}


def arm_recipe(base: Recipe, arm: Arm) -> Recipe:
    """The recipe that an arm trains. Raises RecipeError."""
    detector = {section: dict(values) for section, values in base.detector.items()}
    if arm.model == "decoupled_rcnn":
        detector.pop("localization", None)
    for section, values in arm.changes.items():
        detector[section] = {**detector.get(section, {}), **values}
    recipe = replace(base, model=arm.model, detector=detector)
    recipe.detector_config(1)
    return recipe


def arm_samples(
    systems: Sequence[str],
    base: Recipe,
    sets: tuple[Dataset, Dataset],
    folder: Path,
    seed: int,
    weights: str,
    machine: Machine,
    draws: NDArray[np.int64],
    bar: Bar = nullcontext,
) -> Samples:
    """AP, AP75 and AP90 of every arm; what was done before is not done again.

    sets: training, test. `bar` is entered while a detector runs over the test images.
    """
    found: Samples = {metric: {} for metric in ("AP", "AP75", "AP90")}
    truths = truths_of(sets[1])
    for name in systems:
        arm = ARMS[name]
        recipe = arm_recipe(base, arm)
        own = folder / f"seed{seed}" / arm.training
        checkpoint = train_host(recipe, sets[0], own, seed, weights, machine)
        kept = _detections(checkpoint, arm, recipe, sets[1], own, machine, bar)
        samples = ap_samples(match_classes(truths, kept, len(sets[1].class_names)), draws)
        for metric, values in found.items():
            values[name] = samples[metric]
    return found


def truths_of(dataset: Dataset) -> list[Truths]:
    """Ground truth, in the set's order."""
    samples = (dataset.annotations(index) for index in range(len(dataset)))
    return [Truths(sample.boxes, sample.labels, sample.crowd) for sample in samples]


def _detections(
    checkpoint: Path,
    arm: Arm,
    recipe: Recipe,
    test_set: Dataset,
    folder: Path,
    machine: Machine,
    bar: Bar,
) -> list[ImagePredictions]:
    """In the set's order."""
    detector, digest = load_host(checkpoint, machine.device)
    path = folder / f"detections-{arm.iou_weight:g}.npz"
    made_from = fingerprint(
        {"host": digest, "images": [r.path.name for r in test_set.records], "iou_weight": arm.iou_weight}
    )
    ids = [test_set.annotations(index).image_id for index in range(len(test_set))]
    if not path.is_file():
        with bar() as progress:
            run = run_checkpoint(
                detector,
                test_set,
                recipe.resize,
                min(recipe.optimisation.batch_size, 8),
                (arm.iou_weight,),
                with_rows=False,
                progress=progress,
            )
        by_id = {image.image_id: image for image in run.predictions[arm.iou_weight]}
        _save(path, [by_id[image_id] for image_id in ids], made_from)
    with np.load(path, allow_pickle=False) as file:
        values = dict(file)
    if str(values["made_from"]) != made_from:
        raise OptionError(f"{path} was made with another detector or test images: choose another --out")
    return [
        ImagePredictions(
            image_id,
            *(values[name][values["image"] == index] for name in ("boxes", "labels", "scores", "scores")),
        )
        for index, image_id in enumerate(ids)
    ]


def _save(path: Path, images: Sequence[ImagePredictions], made_from: str) -> None:
    counts = [len(image) for image in images]
    columns = {
        name: np.concatenate([getattr(image, name) for image in images])
        for name in ("boxes", "labels", "scores")
    }
    write_npz(
        path,
        {**columns, "image": np.repeat(np.arange(len(images)), counts), "made_from": np.array(made_from)},
    )
