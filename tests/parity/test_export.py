"""Exported graphs against the torch model, end to end: toy widths, every moving part."""

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import hindsight
from export import to_onnx
from export.errors import ExportError
from export.onnx_ops import DOMAIN
from export.parity import Tolerance, detections_of
from export.parity_report import run_eager
from export.prepare import prepared_copy
from export.to_onnx import Exported, export_artifact
from hindsight.artifact import Artifact, load_artifact
from hindsight.errors import OptionError
from hindsight.runtime import open_runtime
from model.checkpoint import round_to_half, save_checkpoint
from model.config import BackboneConfig, DetectorConfig, HeadConfig, LocalizationConfig, RpnConfig
from model.detector import TwoStageDetector
from tests.parity.exporting import ABOUT, EXTRA, assert_same, feeds_of, lively

Graphs = Mapping[str, onnx.ModelProto]


def toy_flagship() -> TwoStageDetector:
    torch.manual_seed(0)
    return TwoStageDetector(
        DetectorConfig(
            2,
            BackboneConfig("test_efficientnet", min_level=3, fpn_channels=16, frozen_levels=0),
            RpnConfig(anchor_sizes=(16, 32, 64, 128), pre_nms_test=60, post_nms_test=40),
            head=HeadConfig(width=64, stages=3),
            localization=LocalizationConfig(width=64, boxes_at_inference=24),
            max_detections=20,
        )
    ).eval()


def toy_baseline() -> TwoStageDetector:
    torch.manual_seed(0)
    return TwoStageDetector(
        DetectorConfig(
            2,
            BackboneConfig("resnet50", fpn_channels=8),
            RpnConfig(stride_from_image=True, pre_nms_test=60, post_nms_test=40),
            head=HeadConfig(kind="shared", stages=1, width=32, class_specific_first=True),
            localization=None,
            max_detections=20,
        )
    ).eval()


@pytest.fixture(scope="module")
def flagship() -> TwoStageDetector:
    return lively(toy_flagship())


@pytest.fixture(scope="module")
def checkpoint(flagship: TwoStageDetector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "toy.safetensors"
    save_checkpoint(path, flagship, EXTRA)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    samples = folder / "samples"
    samples.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((160, 120), Image.Resampling.BILINEAR).save(samples / "one.jpg")
    (samples / "LICENCE.txt").write_text("drawn for this test\n")
    return export_artifact(checkpoint, folder / "toy", replace(ABOUT, samples=samples), weights="fp16")


@pytest.fixture(scope="module")
def reference(flagship: TwoStageDetector) -> TwoStageDetector:
    """What the float16 artifact claims to equal."""
    return round_to_half(prepared_copy(flagship), 1024)


def one_of(feeds: Mapping[str, NDArray[Any]], index: int) -> dict[str, NDArray[Any]]:
    return {
        name: value if name == "nms_threshold" else value[index : index + 1] for name, value in feeds.items()
    }


def test_parity_was_proven_and_written_down(exported: Exported) -> None:
    assert exported.parity.passed
    assert {case.graph for case in exported.parity.cases} == {"model", "rescore"}
    assert {case.run.images for case in exported.parity.cases} == {1, 2, 3, 4}
    assert sum(case.run.matched for case in exported.parity.cases if case.graph == "model") > 50
    document = json.loads((exported.artifact.path / "parity.json").read_text())
    (candidate,) = document["candidates"]
    assert document["passed"] and candidate["passed"] and candidate["ap"]["missing"]
    assert document["model"]["sha256"] == exported.artifact.manifest.files["model.onnx"]
    assert {row["run"] for row in candidate["runs"]} >= {"one photo", "noise"}
    assert candidate["rescored"]["matched"] > 50 and candidate["runs"][0]["gaps"]["boxes"]["max"] < 0.01
    assert {"parity.json", "MODEL_CARD.md", "samples/one.jpg", "samples/LICENCE.txt"} <= set(
        exported.artifact.manifest.files
    )


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 32, 32), (2, 128, 224), (5, 96, 64)])
def test_batch_height_and_width_are_dynamic(
    exported: Exported, reference: TwoStageDetector, batch: int, height: int, width: int
) -> None:
    feeds = feeds_of(batch, height, width)
    runtime = open_runtime("onnxruntime", exported.artifact)
    matched = assert_same(run_eager(reference, feeds), runtime.detect(feeds), feeds, Tolerance(1e-2, 1e-4))
    assert matched > 0


def test_a_batch_gives_what_each_image_gives_alone(exported: Exported) -> None:
    feeds = feeds_of(3, 96, 128, seed=1)
    runtime = open_runtime("onnxruntime", exported.artifact)
    together = runtime.detect(feeds)
    for index in range(3):
        own = {name: value[index : index + 1] for name, value in together.items()}
        alone = one_of(feeds, index)
        assert assert_same(runtime.detect(alone), own, alone, Tolerance(1e-3, 1e-4)) > 0


def test_rescore_rows_past_the_count_are_zero(exported: Exported, reference: TwoStageDetector) -> None:
    feeds = feeds_of(2, 64, 96)
    boxes = np.array([[[2, 2, 40, 40], [0, 0, 96, 64], [5, 5, 9, 9]]] * 2, np.float32)
    inputs = {
        "images": feeds["images"],
        "image_sizes": feeds["image_sizes"],
        "boxes": boxes,
        "num_boxes": np.array([3, 1], np.int64),
    }
    found = open_runtime("onnxruntime", exported.artifact).rescore(inputs)
    with torch.no_grad():
        expected = reference.rescore(*(torch.from_numpy(value) for value in inputs.values()))
    for name, values in zip(("ious", "purities", "integrities", "class_scores"), expected, strict=True):
        np.testing.assert_allclose(found[name], values.numpy(), atol=1e-4)
        assert not found[name][1, 1:].any()
        assert found[name][0].all()


def test_the_graphs_carry_our_operators_and_share_one_file(exported: Exported) -> None:
    path = exported.artifact.path
    models = {
        name: onnx.load(path / name, load_external_data=False) for name in ("model.onnx", "rescore.onnx")
    }
    kinds = [node.op_type for node in models["model.onnx"].graph.node if node.domain == DOMAIN]
    # proposals, two more stages, and the final boxes; proposals' NMS and the final one
    assert sorted(kinds) == ["BatchedNms"] * 2 + ["MultilevelRoiAlign3"] * 4
    assert exported.weights.bytes_shared > 0
    assert exported.weights.half_tensors > 0
    assert {file.name for file in path.glob("*.bin")} == {"weights.bin"}
    for model in models.values():
        assert {entry.value for tensor in model.graph.initializer for entry in tensor.external_data} >= {
            "weights.bin"
        }


def test_no_file_names_a_folder_of_this_machine(exported: Exported) -> None:
    for file in exported.artifact.path.rglob("*"):
        if file.suffix in (".onnx", ".json", ".md"):
            text = file.read_bytes()
            assert str(Path.home()).encode() not in text
            assert str(Path(__file__).parents[2]).encode() not in text


def test_the_model_card_states_the_manifest(exported: Exported) -> None:
    card = exported.artifact.model_card
    assert card is not None
    for words in (
        "# toy 1",
        "Rounds and squares",
        "- square",
        "drawings",
        "| 0.500 | 0.750 |",
        "Apache-2.0",
        "float16",
    ):
        assert words in card


def test_every_threshold_is_an_input_of_its_own(exported: Exported) -> None:
    feeds = feeds_of(1, 96, 128, seed=2)
    runtime = open_runtime("onnxruntime", exported.artifact)
    low = {"class_threshold": 0.0, "score_threshold": 0.0, "iou_weight": 0.5, "nms_threshold": 0.5}

    def run(**changes: float) -> dict[str, Any]:
        choice = {key: np.array([value], np.float32) for key, value in (low | changes).items()}
        return detections_of(runtime.detect(feeds | choice), 0)

    everything = run()
    for name, filtered in (("class_threshold", "class_scores"), ("score_threshold", "scores")):
        middle = float(np.median(everything[filtered]))
        kept = run(**{name: middle})
        assert 0 < len(kept["scores"]) < len(everything["scores"])
        assert kept[filtered].min() > middle
    by_class = run(iou_weight=0.0)
    np.testing.assert_allclose(by_class["scores"], by_class["class_scores"], atol=1e-6)


@pytest.fixture(scope="module")
def graphs(exported: Exported) -> Graphs:
    """The exported graphs with their weights inside again, so that a test need not trace."""
    return {name: onnx.load(exported.artifact.path / name) for name in ("model.onnx", "rescore.onnx")}


def tree(artifact: Artifact) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in artifact.path.rglob("*") if path.is_file()}


def test_nothing_is_written_if_parity_fails(
    exported: Exported, checkpoint: Path, graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = copy.deepcopy(dict(graphs))
    (weight,) = (
        tensor
        for tensor in wrong["model.onnx"].graph.initializer
        if tensor.name.endswith("regressors.2.deltas.weight")
    )
    values = onnx.numpy_helper.to_array(weight) * np.float32(1.1)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    monkeypatch.setattr(to_onnx, "trace_graphs", lambda prepared: copy.deepcopy(wrong))
    with pytest.raises(ExportError, match=r"differ from the torch model: .* detections "):
        export_artifact(checkpoint, tmp_path / "new", ABOUT)
    assert not any(tmp_path.iterdir())
    before = tree(exported.artifact)
    with pytest.raises(ExportError):
        export_artifact(checkpoint, exported.artifact.path, ABOUT)
    assert tree(exported.artifact) == before


def test_an_artifact_is_replaced_as_a_whole(
    exported: Exported, checkpoint: Path, graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "trace_graphs", lambda prepared: copy.deepcopy(dict(graphs)))
    out = tmp_path / "toy"
    export_artifact(checkpoint, out, ABOUT, weights="fp16")
    (out / "left over.txt").write_text("from before")
    again = export_artifact(checkpoint, out, replace(ABOUT, version="2"), weights="fp16")
    assert load_artifact(out).manifest.version == "2" == again.artifact.manifest.version
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_the_baseline_exports_without_the_outputs_it_lacks(tmp_path: Path) -> None:
    baseline = lively(toy_baseline())
    path = tmp_path / "base.safetensors"
    save_checkpoint(path, baseline, EXTRA)
    exported = export_artifact(path, tmp_path / "base", replace(ABOUT, name="base"), weights="fp32")
    assert exported.artifact.rescore_path is None
    assert not exported.artifact.manifest.has_localization
    feeds = feeds_of(2, 64, 128)
    found = open_runtime("onnxruntime", exported.artifact).detect(feeds)
    assert "ious" not in found
    assert assert_same(run_eager(baseline, feeds), found, feeds, Tolerance(1e-2, 1e-4)) > 0


@pytest.mark.parametrize(
    ("change", "rescores"),
    [
        ({"kind": "iou"}, True),
        ({"train_features": "proposal", "test_features": "proposal", "jitter_per_truth": 0}, False),
    ],
    ids=["the IoU alone", "foresight"],
)
def test_other_localization_heads_export_with_what_they_can_tell(
    flagship: TwoStageDetector, tmp_path: Path, change: dict[str, Any], rescores: bool
) -> None:
    localization = replace(LocalizationConfig(width=16, boxes_at_inference=24), **change)
    torch.manual_seed(0)
    detector = lively(TwoStageDetector(replace(flagship.config, localization=localization)).eval())
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, detector, EXTRA)
    exported = export_artifact(path, tmp_path / "other", replace(ABOUT, name="other"))
    assert exported.parity.passed
    manifest = exported.artifact.manifest
    assert manifest.has_localization and (manifest.max_rescore_boxes > 0) == rescores
    pixels = np.random.default_rng(1).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    with hindsight.load(exported.artifact.path) as model:
        found = model.detect(pixels, class_threshold=0.0, score_threshold=0.0)
        assert len(found) and found.ious is not None and (found.purities is None) == rescores
        if not rescores:
            with pytest.raises(OptionError, match="cannot rescore boxes"):
                model.rescore(pixels, [[4, 4, 40, 50]])
            return
        [record] = model.rescore(pixels, [[4, 4, 40, 50]]).to_records()
        assert 0 < record["iou"] < 1 and record["purity"] is None


def test_preparing_changes_no_feature(flagship: TwoStageDetector) -> None:
    prepared = prepared_copy(flagship)
    assert not [m for m in prepared.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    pixels = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        for expected, found in zip(flagship.backbone(pixels), prepared.backbone(pixels), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
