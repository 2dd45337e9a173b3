"""From candidates to detections: filter, suppress, keep the best K. Fixed shapes throughout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model import boxes as box_ops
from model.config import DetectorConfig
from model.structures import Candidates, DetectorOutput
from model.suppression import suppress


def rank(
    candidates: Candidates,
    class_threshold: Tensor,
    score_threshold: Tensor,
    iou_weight: Tensor,
    nms_threshold: Tensor,
    config: DetectorConfig,
) -> DetectorOutput:
    """The best of what suppression leaves; `scores` is what it reports, `class_scores` the classifier's own.

    The class score is filtered BEFORE fusion (DIR's a); `score_threshold` filters what is reported.
    """
    class_scores, boxes = candidates.class_scores, candidates.boxes
    small = box_ops.is_small(boxes, config.min_box_side)
    alive = class_scores > class_threshold[:, None, None]
    alive = alive & ~(small if small.dim() == 3 else small[..., None])
    kept = suppress(candidates, alive, score_threshold, iou_weight, nms_threshold, config).flatten(1)
    depth = class_scores.shape[1]
    limit = config.max_detections
    scores, flat = F.pad(kept, (0, limit), value=-torch.inf).topk(limit, dim=1)
    valid = scores > -torch.inf
    flat = torch.where(valid, flat, 0)
    labels, rows = flat // depth, flat % depth
    if boxes.dim() == 4:
        per_class = boxes.transpose(1, 2).flatten(1, 2)
        final_boxes = per_class.gather(1, flat[..., None].expand(-1, -1, 4))
    else:
        final_boxes = boxes.gather(1, rows[..., None].expand(-1, -1, 4))

    def of_box(quality: Tensor | None) -> Tensor | None:
        return None if quality is None else quality.gather(1, rows) * valid

    return DetectorOutput(
        valid.sum(dim=1),
        final_boxes * valid[..., None],
        labels * valid,
        torch.where(valid, scores, 0.0),
        class_scores.transpose(1, 2).flatten(1).gather(1, flat) * valid,
        of_box(candidates.ious),
        of_box(candidates.purities),
        of_box(candidates.integrities),
    )
