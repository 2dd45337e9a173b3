"""`hindsight evaluate` on a small random checkpoint and on an artifact of known behaviour."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from hindsight.artifact import ResizeRule
from model import zoo
from model.checkpoint import save_checkpoint
from model.detector import TwoStageDetector
from tests.factories import make_tiny_artifact
from tests.unit.training.data_sets import voc_object, write_voc
from training.data import Dataset, open_dataset
from training.evaluate_command import evaluate
from training.evaluation import run_checkpoint, validate

RULE = ResizeRule(64, 96)
app = typer.Typer()
app.command()(evaluate)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def small_detector(name: str = "hindsight") -> TwoStageDetector:
    torch.manual_seed(0)
    config = zoo.config_of(name, 2)
    if config.localization is not None:
        config = replace(config, localization=replace(config.localization, width=16, boxes_at_inference=64))
    backbone = replace(config.backbone, fpn_channels=16)
    rpn = replace(config.rpn, pre_nms_test=100, post_nms_test=100)
    return TwoStageDetector(replace(config, backbone=backbone, rpn=rpn, head=replace(config.head, width=16)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    objects = [voc_object("cell", 3, 4, 30, 40), voc_object("dust", 35, 5, 60, 40)]
    return write_voc(tmp_path / "set", {name: objects for name in "abc"}, split="test")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, small_detector(), {"class_names": ["cell", "dust"], "resize": asdict(RULE)})
    return path


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Photos with tiles the tiny artifact detects: red exactly, green with a box twice its size."""
    root = write_voc(
        tmp_path / "tiles",
        {
            "a": [voc_object("red", 1, 1, 32, 32), voc_object("green", 65, 33, 80, 64)],
            "b": [voc_object("red", 33, 33, 64, 64)],
        },
        size_wh=(96, 64),
        split="test",
    )
    for name, red in (("a", (0, 0)), ("b", (32, 32))):
        photo = np.zeros((64, 96, 3), np.uint8)
        photo[red[1] : red[1] + 32, red[0] : red[0] + 32] = (200, 0, 0)
        if name == "a":
            photo[32:64, 64:80] = (0, 200, 0)
        Image.fromarray(photo).save(root / "JPEGImages" / f"{name}.png")
    return root


def test_a_checkpoint_is_measured_and_written_down(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    result = run(checkpoint, "--data", root, "--out", out, "--all-boxes", "--iou-weight", 0.25)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "metrics.json").read_text())
    assert report["model"] == "small.safetensors"
    assert report["data"] == {"name": "set", "split": "test", "left_out": 0}
    assert list(report["by_iou_weight"]) == ["0", "0.25", "0.5"]
    assert report["metrics"] == report["by_iou_weight"]["0.25"]
    assert report["localization"]["population"].startswith("decoded (box, class) rows before NMS")
    assert report["rescoring"]["n"] == 3 * 2 * 8
    assert report["boxes_looked_at"]["limit"] == 64 and report["boxes_looked_at"]["all"] == 100
    for picture in ("reliability.png", "score_vs_iou.png"):
        with Image.open(out / picture) as image:
            assert min(image.size) > 300
    assert str(tmp_path) not in (out / "metrics.json").read_text()


def test_a_detector_without_the_head_has_class_scores_alone(root: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "plain.safetensors", tmp_path / "report"
    extra = {"class_names": ["cell", "dust"], "resize": asdict(RULE)}
    save_checkpoint(path, small_detector("decoupled_rcnn"), extra)
    result = run(path, "--data", root, "--out", out)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "metrics.json").read_text())
    assert list(report["by_iou_weight"]) == ["0"]
    assert report["localization"] is None and report["rescoring"] is None
    assert sorted(file.name for file in out.iterdir()) == ["metrics.json"]


def test_an_artifact_is_measured_on_kept_detections(tiles: Path, tmp_path: Path) -> None:
    names = ("red", "green", "blue")
    artifact = make_tiny_artifact(tmp_path / "tiny", resize=ResizeRule(64, 96), class_names=names)
    out = tmp_path / "report"
    result = run(artifact.path, "--data", tiles, "--out", out)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "metrics.json").read_text())
    per_class = {row["name"]: row for row in report["metrics"]["per_class"]}
    assert per_class["red"]["ap"] == pytest.approx(1)
    assert per_class["green"]["ap50"] == pytest.approx(1) and per_class["green"]["ap"] == pytest.approx(0.1)
    assert per_class["blue"]["ap"] is None
    localization = report["localization"]
    assert localization["population"].startswith("kept detections (after NMS)")
    # red: class score 200/255 at IoU 1; green, half as strong: IoU .5
    assert localization["n"] == 3
    assert localization["pearson"]["class_score_vs_true_iou"] == pytest.approx(1)
    assert report["rescoring"]["n"] == 3 * 8


def test_one_pass_ranks_for_every_weight_and_keeps_the_mode(root: Path) -> None:
    detector, dataset = small_detector(), open_dataset(root)
    detector.train()
    both = run_checkpoint(detector, dataset, RULE, 2, (0.0, 0.5))
    assert detector.training
    assert both.rows is not None
    for weight, images in both.predictions.items():
        assert sorted(image.image_id for image in images) == [1, 2, 3]
        for image in images:
            assert image.ious is not None
            fused = image.class_scores ** (1 - weight) * image.ious**weight
            np.testing.assert_allclose(image.scores, fused, rtol=1e-4)
            assert (np.diff(image.scores) <= 1e-6).all()
            assert (image.class_scores > 0.05).all()
    metrics = validate(detector, dataset, RULE, 3)
    assert metrics.images == 3 and metrics.ap is not None
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_the_forward_pass_agrees_with_what_evaluation_ranks(root: Path) -> None:
    detector, dataset = small_detector().eval(), open_dataset(root)
    run_result = run_checkpoint(detector, dataset, RULE, 3, (0.5,)).predictions[0.5]
    from training.data import EvalLoader

    (batch,) = EvalLoader(dataset, 3, RULE)
    with torch.no_grad():
        column = torch.ones(3)
        output = detector(
            batch.images, batch.image_sizes, 0.05 * column, 0 * column, 0.5 * column, torch.tensor([0.5])
        )
    for index, image in enumerate(run_result):
        count = int(output.num_detections[index])
        assert len(image) == count
        np.testing.assert_allclose(image.scores, output.scores[index, :count].numpy(), atol=1e-6)


def test_bad_entries_stop_it_unless_told_to_go_on(root: Path, checkpoint: Path) -> None:
    file = root / "Annotations" / "b.xml"
    file.write_text(file.read_text().replace("<xmax>30<", "<xmax>3<"))
    refused = run(checkpoint, "--data", root)
    assert refused.exit_code == 2
    assert "1 bad entry" in refused.stderr and "b.xml:7: object 1 (cell): empty box" in refused.stderr
    assert refused.stdout == ""
    assert "Traceback" not in refused.output
    allowed = run(checkpoint, "--data", root, "--skip-bad")
    assert allowed.exit_code == 0 and "left out as bad: 1" in allowed.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "no-such-model"}, "no-such-model"),
        ({"model": "gone.safetensors"}, "no checkpoint at gone.safetensors"),
        ({"data": "nowhere"}, "nowhere: no such file or folder"),
        ({"--split": "dev"}, "no split 'dev'"),
        ({"--iou-weight": "nan"}, "--iou-weight must be a number in 0..1"),
        ({"--iou-weight": "1.5"}, "--iou-weight must be a number in 0..1, got 1.5"),
        ({"--device": "abacus"}, "device 'abacus' cannot be used"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    root: Path, checkpoint: Path, change: dict[str, str], message: str
) -> None:
    options = {"model": str(checkpoint), "data": str(root), **change}
    flags = [word for key, value in options.items() if key.startswith("--") for word in (key, value)]
    result = run(options["model"], "--data", options["data"], *flags)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_checkpoint_of_other_classes_is_told_apart(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, small_detector(), {"class_names": ["cat", "dog"], "resize": asdict(RULE)})
    result = run(path, "--data", root)
    assert result.exit_code == 2
    assert "unknown class 'cell' (known: cat, dog)" in result.stderr


def test_datasets_open_with_the_models_classes(root: Path) -> None:
    dataset: Dataset = open_dataset(root, class_names=("dust", "cell"))
    assert dataset.annotations(0).labels.tolist() == [1, 0]
