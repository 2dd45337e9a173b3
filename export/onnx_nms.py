"""Suppression in ONNX: schemas and torch translations of each kind of NMS; bodies in onnx_nms_bodies.py.

Shapes: G groups of boxes, N boxes a group, K classes. Boxes are xyxy; scores of -inf mean "absent".
"""

from collections.abc import Callable
from typing import Any

import onnx
from onnx.defs import OpSchema

from export import onnx_nms_bodies as bodies
from export.onnx_domain import DOMAIN, DOMAIN_VERSION, PLUGIN_ATTRIBUTES, plugin_attributes

NMS_NAME = "BatchedNms"
SOFT_NMS_NAME = "SoftNms"
IOU_GUIDED_NMS_NAME = "IouGuidedNms"


def function_makers() -> dict[str, Callable[[], onnx.FunctionProto]]:
    """The body of each operator, by its name."""
    return {
        NMS_NAME: lambda: bodies.batched_nms_function(NMS_NAME),
        SOFT_NMS_NAME: lambda: bodies.soft_nms_function(SOFT_NMS_NAME),
        IOU_GUIDED_NMS_NAME: lambda: bodies.iou_guided_nms_function(IOU_GUIDED_NMS_NAME),
    }


def translations(opset: Any) -> dict[Callable[..., Any], Callable[..., Any]]:
    """torch operator -> what makes our node; opset: onnxscript's of our domain, our schemas registered."""
    import torch

    import model.ops  # noqa: F401  (registers torch.ops.hindsight)

    def batched_nms(boxes: Any, scores: Any, threshold: Any) -> Any:
        return getattr(opset, NMS_NAME)(boxes, scores, threshold, **PLUGIN_ATTRIBUTES)

    def soft_nms(
        boxes: Any, scores: Any, threshold: Any, method: str, sigma: float, min_score: float, steps: int
    ) -> Any:
        options = {"method": method, "sigma": sigma, "min_score": min_score, "steps": steps}
        return getattr(opset, SOFT_NMS_NAME)(boxes, scores, threshold, **options, **PLUGIN_ATTRIBUTES)

    def iou_guided_nms(boxes: Any, class_scores: Any, ious: Any, threshold: Any) -> Any:
        node = getattr(opset, IOU_GUIDED_NMS_NAME)
        return node(boxes, class_scores, ious, threshold, **PLUGIN_ATTRIBUTES)

    return {
        torch.ops.hindsight.batched_nms.default: batched_nms,
        torch.ops.hindsight.soft_nms.default: soft_nms,
        torch.ops.hindsight.iou_guided_nms.default: iou_guided_nms,
    }


def schemas() -> list[OpSchema]:
    """What each operator takes, gives and is set by."""
    attribute, kind = OpSchema.Attribute, OpSchema.AttrType
    boxes = ("boxes", "[G, N, 4] xyxy")
    threshold = ("threshold", "[1] IoU above which a box is suppressed")
    return [
        _schema(
            NMS_NAME,
            "Greedy non-maximum suppression of each class of each group on its own.",
            [boxes, ("scores", "[G, K, N]; -inf is never kept"), threshold],
            [("keep", "tensor(bool)", "[G, K, N]")],
        ),
        _schema(
            SOFT_NMS_NAME,
            "Soft-NMS of each class of each group on its own: `steps` boxes are picked, the others decay.",
            [boxes, ("scores", "[G, K, N] in 0..1; -inf is absent"), threshold],
            [("decayed", "T", "[G, K, N]; -inf: absent, below min_score, or not picked")],
            [
                attribute("method", kind.STRING, "linear or gaussian", required=True),
                attribute("sigma", kind.FLOAT, "of the gaussian", required=True),
                attribute("min_score", kind.FLOAT, "below it a box is dropped", required=True),
                attribute("steps", kind.INT, "boxes picked in each list", required=True),
            ],
        ),
        _schema(
            IOU_GUIDED_NMS_NAME,
            "Suppression by predicted IoU; a kept box takes the highest class score of its cluster.",
            [
                boxes,
                ("class_scores", "[G, K, N]; -inf is absent"),
                ("ious", "[G, N] predicted"),
                threshold,
            ],
            [("keep", "tensor(bool)", "[G, K, N]"), ("scores", "T", "[G, K, N]; -inf where not kept")],
        ),
    ]


def _schema(
    name: str,
    doc: str,
    inputs: list[tuple[str, str]],
    outputs: list[tuple[str, str, str]],
    attributes: list[OpSchema.Attribute] | None = None,
) -> OpSchema:
    return OpSchema(
        name,
        DOMAIN,
        DOMAIN_VERSION,
        doc=doc,
        inputs=[OpSchema.FormalParameter(label, "T", meaning) for label, meaning in inputs],
        outputs=[OpSchema.FormalParameter(label, kind, meaning) for label, kind, meaning in outputs],
        type_constraints=[("T", ["tensor(float)"], "boxes and scores")],
        attributes=[*(attributes or []), *plugin_attributes()],
    )
