"""Ranking with every kind of NMS, traced to ONNX as a detector's is, against torch on the same candidates."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from export import graphs
from export.onnx_nms import IOU_GUIDED_NMS_NAME, NMS_NAME, SOFT_NMS_NAME
from export.onnx_ops import DOMAIN
from model.config import DetectorConfig, HeadConfig, LocalizationConfig, NmsConfig
from model.ranking import rank
from model.structures import Candidates, DetectorOutput

CLASSES, ROWS = 3, 16
OPERATORS = {
    "hard": NMS_NAME,
    "soft_linear": SOFT_NMS_NAME,
    "soft_gaussian": SOFT_NMS_NAME,
    "iou_guided": IOU_GUIDED_NMS_NAME,
}


class Ranking(nn.Module):
    """What a detector does once it has its candidates."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        candidate_boxes: Tensor,
        candidate_scores: Tensor,
        candidate_ious: Tensor,
        class_threshold: Tensor,
        score_threshold: Tensor,
        iou_weight: Tensor,
        nms_threshold: Tensor,
    ) -> tuple[Tensor, ...]:
        quality = None if self.config.localization is None else candidate_ious
        candidates = Candidates(candidate_boxes, candidate_scores, quality, quality, quality)
        output = rank(candidates, class_threshold, score_threshold, iou_weight, nms_threshold, self.config)
        return tuple(value for value in output if value is not None)


def inputs(batch: int, seed: int, *, class_specific: bool) -> dict[str, Tensor]:
    """Boxes in a crowd, and every threshold at work; no name that an output has too."""
    generator = torch.Generator().manual_seed(seed)
    lead = (batch, ROWS, CLASSES) if class_specific else (batch, ROWS)
    corner = torch.rand(*lead, 2, generator=generator) * 20
    sides = 10 + torch.rand(*lead, 2, generator=generator) * 20
    return {
        "candidate_boxes": torch.cat([corner, corner + sides], dim=-1),
        "candidate_scores": torch.rand(batch, ROWS, CLASSES, generator=generator),
        "candidate_ious": torch.rand(batch, ROWS, generator=generator),
        "class_threshold": torch.linspace(0.05, 0.3, batch),
        "score_threshold": torch.linspace(0.2, 0.0, batch),
        "iou_weight": torch.linspace(0.25, 0.75, batch),
        "nms_threshold": torch.tensor([0.4]),
    }


@pytest.mark.parametrize(
    ("kind", "class_agnostic", "class_specific"),
    [
        ("hard", True, False),
        ("soft_linear", False, False),
        ("soft_linear", False, True),
        ("soft_gaussian", True, False),
        ("soft_gaussian", True, True),
        ("iou_guided", False, False),
        ("iou_guided", True, False),
    ],
)
def test_the_graph_ranks_as_torch_does(kind: str, class_agnostic: bool, class_specific: bool) -> None:
    config = DetectorConfig(
        CLASSES,
        head=HeadConfig(kind="shared", stages=1, class_specific_first=class_specific),
        localization=None if class_specific else LocalizationConfig(),
        nms=NmsConfig(kind, class_agnostic=class_agnostic),
        max_detections=12,
    )
    ranking = Ranking(config)
    example = inputs(2, 0, class_specific=class_specific)
    batch = Dim("batch")
    dims = {name: {} if name == "nms_threshold" else {0: batch} for name in example}
    absent = ("ious", "purities", "integrities") if class_specific else ()
    names = [name for name in DetectorOutput._fields if name not in {*absent, "masks"}]
    model = graphs._trace(ranking, tuple(example.values()), dims, names)
    assert [node.op_type for node in model.graph.node if node.domain == DOMAIN] == [OPERATORS[kind]]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    used = {value.name for value in session.get_inputs()}
    for size, seed in ((2, 1), (1, 2), (5, 3)):
        feeds = inputs(size, seed, class_specific=class_specific)
        expected = ranking(*feeds.values())
        found = session.run(None, {name: value.numpy() for name, value in feeds.items() if name in used})
        assert int(expected[0].min()) > 0
        for value, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, wanted.numpy(), atol=1e-5)
