"""A detector as two ONNX graphs, detection and rescoring, with batch, height and width left open."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from export import onnx_ops
from export.errors import ExportError
from export.onnx_domain import OPSET
from export.weight_names import write_names
from model.detector import TwoStageDetector
from model.structures import DetectorOutput

MODEL_GRAPH = "model.onnx"
RESCORE_GRAPH = "rescore.onnx"
_MULTIPLE = 32  # of height and width
_RESCORE_OUTPUTS = ("ious", "purities", "integrities", "class_scores")


class _Detect(nn.Module):
    """The detector, its absent outputs left out."""

    def __init__(self, detector: TwoStageDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self,
        images: Tensor,
        image_sizes: Tensor,
        class_threshold: Tensor,
        score_threshold: Tensor,
        iou_weight: Tensor,
        nms_threshold: Tensor,
    ) -> tuple[Tensor, ...]:
        output = self.detector(
            images, image_sizes, class_threshold, score_threshold, iou_weight, nms_threshold
        )
        return tuple(value for value in output if value is not None)


class _Rescore(nn.Module):
    def __init__(self, detector: TwoStageDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self, images: Tensor, image_sizes: Tensor, boxes: Tensor, num_boxes: Tensor
    ) -> tuple[Tensor, ...]:
        output = self.detector.rescore(images, image_sizes, boxes, num_boxes)
        return tuple(value for value in output if value is not None)


def trace_graphs(prepared: TwoStageDetector) -> dict[str, onnx.ModelProto]:
    """model.onnx, and rescore.onnx where the localization head can look at any box; weights inside.

    prepared: as `prepared_copy` gives it. Raises ExportError.
    """
    graphs = {MODEL_GRAPH: _trace_detection(prepared)}
    if prepared.can_rescore:
        graphs[RESCORE_GRAPH] = _trace_rescoring(prepared)
    for graph in graphs.values():
        write_names(graph, prepared.state_dict())
    return graphs


def _trace_detection(detector: TwoStageDetector) -> onnx.ModelProto:
    batch = Dim("batch")
    height, width = _MULTIPLE * Dim("height_by_32"), _MULTIPLE * Dim("width_by_32")
    images, sizes = _example_images()
    dims = {
        "images": {0: batch, 1: height, 2: width},
        "image_sizes": {0: batch},
        "class_threshold": {0: batch},
        "score_threshold": {0: batch},
        "iou_weight": {0: batch},
        "nms_threshold": {},
    }
    names = _known(detector, DetectorOutput._fields)
    # One tensor of its own for each input: the tracer takes two inputs that are the same object for one.
    thresholds = (torch.full((len(images),), value) for value in (0.05, 0.1, 0.5))
    example = (images, sizes, *thresholds, torch.tensor([0.5]))
    return _trace(_Detect(detector), example, dims, names)


def _trace_rescoring(detector: TwoStageDetector) -> onnx.ModelProto:
    batch, count = Dim("batch"), Dim("boxes")
    height, width = _MULTIPLE * Dim("height_by_32"), _MULTIPLE * Dim("width_by_32")
    images, sizes = _example_images()
    boxes = torch.tensor([[[4.0, 4.0, 40.0, 50.0]] * 3] * len(images))
    dims = {
        "images": {0: batch, 1: height, 2: width},
        "image_sizes": {0: batch},
        "boxes": {0: batch, 1: count},
        "num_boxes": {0: batch},
    }
    example = (images, sizes, boxes, torch.tensor([3, 2]))
    return _trace(_Rescore(detector), example, dims, _known(detector, _RESCORE_OUTPUTS))


def _known(detector: TwoStageDetector, names: Sequence[str]) -> list[str]:
    """The outputs that this detector has: not every one has masks or a localization head of all qualities."""
    config = detector.config.localization
    absent = {"ious", "purities", "integrities"} if config is None else set()
    if config is not None and config.kind != "purity_integrity":
        absent = {"purities", "integrities"}
    if detector.config.mask is None:
        absent = {*absent, "masks"}
    return [name for name in names if name not in absent]


def _example_images() -> tuple[Tensor, Tensor]:
    """Two images, because a batch of 1 would be baked into the graph as a constant."""
    return torch.zeros(2, 64, 96, 3, dtype=torch.uint8), torch.tensor([[64, 96], [50, 70]])


def _trace(
    module: nn.Module, example: tuple[Tensor, ...], dims: dict[str, dict[int, Any]], outputs: Sequence[str]
) -> onnx.ModelProto:
    with warnings.catch_warnings():
        # The exporter warns of its own internals; what matters is checked by parity.
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                dynamic_shapes=dims,
                opset_version=OPSET,
                custom_translation_table=onnx_ops.translation_table(),
                input_names=list(dims),
                output_names=list(outputs),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()
            raise ExportError(
                f"the detector does not trace to ONNX: {reason[0] if reason else error!r}"
            ) from error
    if program is None:
        raise ExportError("the torch exporter returned nothing")
    model = program.model_proto
    onnx_ops.attach_functions(model)
    _strip_provenance(model)
    return model


def _strip_provenance(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes of the tracing: stack traces, which name folders of this machine."""
    graph = model.graph
    holders = [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for holder in holders:
        del holder.metadata_props[:]
        holder.doc_string = ""
