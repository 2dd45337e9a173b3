"""The torch runtime against ONNX Runtime, on what we ship and on exports with every kind of weight."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from export.parity import Filters, Tolerance, compare_detections, detections_of, merge
from export.parity_inputs import ParityInput, parity_inputs
from export.rebuild import rebuilt_detector
from export.torch_options import TorchOptions, parse_options
from export.torch_runtime import open_torch
from hindsight.artifact import Artifact, find_artifact, load_artifact
from hindsight.errors import ArtifactError, OptionError, RuntimeFailure
from hindsight.runtime import Runtime, open_runtime
from model.config import BackboneConfig, DetectorConfig, HeadConfig, LocalizationConfig
from model.detector import TwoStageDetector
from tests.parity.exporting import assert_same, export_toy, feeds_of, lively, toy_of

CASES = ("one photo", "four small photos", "noise", "tiny")


def on_cpu(artifact: Artifact, argument: str = "") -> Runtime:
    return open_torch(artifact, device="cpu", threads=None, argument=argument)


def compared(item: ParityInput, first: Runtime, second: Runtime, limit: int) -> int:
    """How many detections agree within parity's tolerance; all must."""
    feeds = item.detect_feeds()
    expected, found = first.detect(feeds), second.detect(feeds)
    assert list(expected) == list(found)
    for name, values in expected.items():
        assert (values.shape, values.dtype) == (found[name].shape, found[name].dtype), name
    parts = []
    for image in range(item.batch):
        names = ("class_threshold", "score_threshold")
        filters = Filters(*(float(feeds[name][image]) for name in names), float(feeds["nms_threshold"][0]))
        own, other = detections_of(expected, image), detections_of(found, image)
        parts.append(compare_detections(own, other, filters, limit, Tolerance(), featureless=False))
    assert merge(parts).outliers(Tolerance()) == 0, item.name
    return merge(parts).matched


@pytest.mark.parametrize("name", ["cells", "pcb"])
def test_shipped_models_answer_as_in_onnx_runtime(name: str) -> None:
    artifact = find_artifact(name)
    manifest = artifact.manifest
    ours, theirs = on_cpu(artifact), open_runtime("onnxruntime", artifact)
    matched = 0
    for item in parity_inputs(manifest.resize, manifest.defaults):
        if item.name not in CASES:
            continue
        matched += compared(item, theirs, ours, manifest.max_detections)
        expected, found = theirs.rescore(item.rescore_feeds()), ours.rescore(item.rescore_feeds())
        assert set(expected) == set(found)
        for key, values in expected.items():
            np.testing.assert_allclose(found[key], values, atol=Tolerance().score, err_msg=key)
    assert matched > 20


def config(**parts: Any) -> DetectorConfig:
    return DetectorConfig(2, localization=LocalizationConfig(width=32, boxes_at_inference=24), **parts)


def torchvision_like() -> TwoStageDetector:
    """Batch norms in backbone, pyramid and head."""
    head = HeadConfig(kind="shared", stages=1, width=32, convs=2)
    toy = toy_of(config(head=head)).config
    anchors = replace(toy.rpn, anchor_sizes=(16, 32, 64, 128, 256))
    backbone = BackboneConfig("resnet50", fpn_channels=8, fpn_norm=True)
    return TwoStageDetector(replace(toy, backbone=backbone, rpn=anchors)).eval()


def tsd() -> TwoStageDetector:
    """A branch that only training reads."""
    return toy_of(config(head=HeadConfig(kind="tsd", stages=1, width=32, offset_width=32)))


@pytest.mark.parametrize("make", [torchvision_like, tsd])
def test_every_weight_comes_back(make: Callable[[], TwoStageDetector], tmp_path: Path) -> None:
    exported = export_toy(with_statistics(lively(make())), tmp_path)
    ours, theirs = on_cpu(exported.artifact), open_runtime("onnxruntime", exported.artifact)
    feeds = feeds_of(2, 96, 128) | {"class_threshold": np.zeros(2, np.float32)}
    assert assert_same(theirs.detect(feeds), ours.detect(feeds), feeds, Tolerance()) > 0
    expected, found = theirs.rescore(boxes_for(feeds)), ours.rescore(boxes_for(feeds))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=Tolerance().score, err_msg=name)
    assert len(np.unique(expected["ious"])) == expected["ious"].size  # no answer that any weights would give


def with_statistics(detector: TwoStageDetector) -> TwoStageDetector:
    """Batch norms of a trained detector are not the identity, and its biases are not zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in detector.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for values in (module.running_mean, module.bias):
                    values.copy_(0.1 * torch.randn(values.shape, generator=generator))
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
    return detector


def boxes_for(feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What rescore takes: two boxes on each of two images."""
    return {
        "images": feeds["images"],
        "image_sizes": feeds["image_sizes"],
        "boxes": np.array([[[4, 4, 40, 40], [0, 0, 20, 60]]] * 2, np.float32),
        "num_boxes": np.array([2, 2]),
    }


@pytest.fixture(scope="module")
def cells() -> Runtime:
    return on_cpu(find_artifact("cells"))


def small_feeds() -> dict[str, NDArray[Any]]:
    return feeds_of(2, 64, 96)


def test_half_precision_changes_little(cells: Runtime) -> None:
    rescored = boxes_for(small_feeds())
    expected, found = cells.rescore(rescored), on_cpu(find_artifact("cells"), "bf16").rescore(rescored)
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        difference = np.abs(found[name] - values).max()
        assert 0 < difference < 0.1, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "inputs lack images"),
        ({"images": np.zeros((2, 60, 96, 3), np.uint8)}, "multiples of 32"),
        ({"images": np.zeros((2, 64, 96, 3), np.float32)}, "must be uint8"),
        ({"iou_weight": np.zeros(3, np.float32)}, "iou_weight must have 2 rows"),
    ],
)
def test_inputs_that_fit_no_model_are_refused(cells: Runtime, change: dict[str, Any], message: str) -> None:
    feeds = {name: values for name, values in (small_feeds() | change).items() if values is not None}
    with pytest.raises(RuntimeFailure, match=message):
        cells.detect(feeds)


def test_read_only_inputs_are_read(cells: Runtime) -> None:
    feeds = small_feeds()
    expected = cells.detect(feeds)
    for values in feeds.values():
        values.setflags(write=False)
    found = cells.detect(feeds)
    assert all(np.array_equal(found[name], values) for name, values in expected.items())


def test_a_closed_runtime_says_so() -> None:
    runtime = on_cpu(find_artifact("cells"))
    runtime.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        runtime.detect(small_feeds())


def changed(artifact: Artifact, folder: Path, **fields: Any) -> Artifact:
    copy = folder / "copy"
    shutil.copytree(artifact.path, copy)
    if "rescore.onnx" not in fields.get("files", {"rescore.onnx": ""}):
        (copy / "rescore.onnx").unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | fields))
    return load_artifact(copy, verify=False)


def test_a_model_without_localization_head_cannot_rescore(tmp_path: Path) -> None:
    files = {
        name: digest
        for name, digest in find_artifact("cells").manifest.files.items()
        if "rescore" not in name
    }
    runtime = on_cpu(changed(find_artifact("cells"), tmp_path, files=files))
    with pytest.raises(OptionError, match="no localization head"):
        runtime.rescore({})
    assert runtime.detect(small_feeds())


def test_an_architecture_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    cells = find_artifact("cells")
    with pytest.raises(ArtifactError, match="does not describe a detector"):
        rebuilt_detector(changed(cells, tmp_path, architecture={}))
    other = dict(cells.manifest.architecture["config"], num_classes=7)
    with pytest.raises(ArtifactError, match="does not fit the architecture"):
        rebuilt_detector(changed(cells, tmp_path / "more", architecture={"config": other}))


def test_a_weight_without_its_name_is_an_error(tmp_path: Path) -> None:
    artifact = changed(find_artifact("cells"), tmp_path)
    graph = onnx.load(str(artifact.model_path), load_external_data=False)
    renamed = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("rpn.conv.bias"))
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            if name == renamed.name:
                node.input[place] = "turned"
    renamed.name = "turned"
    artifact.model_path.write_bytes(graph.SerializeToString())
    with pytest.raises(ArtifactError, match="which weight of the detector is turned of Conv"):
        rebuilt_detector(artifact)


def test_a_weight_that_is_gone_is_an_error(tmp_path: Path) -> None:
    artifact = changed(find_artifact("cells"), tmp_path)
    for path in (artifact.model_path, artifact.rescore_path):
        assert path is not None
        graph = onnx.load(str(path), load_external_data=False)
        kept = [tensor for tensor in graph.graph.initializer if "rpn.conv.bias" not in tensor.name]
        del graph.graph.initializer[:]
        graph.graph.initializer.extend(kept)
        path.write_bytes(graph.SerializeToString())
    with pytest.raises(ArtifactError, match=r"rpn\.conv\.bias is; export it again"):
        rebuilt_detector(artifact)


def test_options_of_the_argument() -> None:
    assert parse_options("") == TorchOptions("fp32", False, 16)
    assert parse_options("fp16, compile,graphs=3") == TorchOptions("fp16", True, 3)
    for wrong in ("fp8", "graphs=-1", "graphs=many"):
        with pytest.raises(OptionError, match="separated by commas"):
            parse_options(wrong)


def test_devices() -> None:
    with pytest.raises(OptionError, match="must be cpu, cuda or cuda:N"):
        open_torch(find_artifact("cells"), device="tpu", threads=None, argument="")


def test_the_dense_part_compiles_whole_once_a_shape(cells: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the backend that only traces: generating code would take minutes here."""
    compiled: list[str] = []
    compile_for_good = torch.compile

    def traced(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        compiled.append(function.__name__)
        return compile_for_good(function, backend="eager", fullgraph=True, **options)

    monkeypatch.setattr(torch, "compile", traced)
    runtime = on_cpu(find_artifact("cells"), "compile")
    assert compiled == ["extract", "forward"]
    torch._dynamo.utils.counters.clear()
    for height in (64, 96, 64):
        feeds = feeds_of(1, height, 96)
        found = runtime.detect(feeds)
        for name, values in cells.detect(feeds).items():
            np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4
    runtime.close()
