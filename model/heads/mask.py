"""Mask R-CNN's branch: a small bitmap of every class for every box (He et al., 2017), behind any host.

It learns on the positives of the host's last stage. At inference it runs last, on the boxes that NMS kept:
rescoring decides before NMS which boxes those are, and masks cost nothing for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from model import losses
from model.config import MaskConfig
from model.heads.host import Regressed, Rois
from model.structures import DetectorOutput, Target


class MaskHead(nn.Module):
    """Convolutions 3x3, one upsampling to twice the side, and C logits a cell."""

    def __init__(self, in_channels: int, config: MaskConfig, num_classes: int) -> None:
        super().__init__()
        widths = [in_channels, *[config.channels] * config.convs]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths)
        )
        self.upsample = nn.ConvTranspose2d(widths[-1], config.channels, 2, stride=2)
        self.logits = nn.Conv2d(config.channels, num_classes, 1)
        for layer in [*self.convs, self.upsample, self.logits]:
            assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def features(self, pooled: Float[Tensor, "N ch s s"]) -> Float[Tensor, "N width s s"]:
        """What the convolutions make of RoI features."""
        x = pooled
        for conv in self.convs:
            x = F.relu(conv(x))
        return x

    def predict(self, features: Float[Tensor, "N width s s"]) -> Float[Tensor, "N C m m"]:
        """Logits of every class at twice the side."""
        return self.logits(F.relu(self.upsample(features)))  # type: ignore[no-any-return]

    def forward(self, pooled: Tensor) -> Tensor:
        """[N, ch, s, s] -> logits [N, C, 2 * s, 2 * s]"""
        return self.predict(self.features(pooled))


def mask_losses(
    head: MaskHead, config: MaskConfig, rois: Rois, regressed: Regressed, targets: Sequence[Target]
) -> dict[str, Tensor]:
    """Binary cross-entropy of the matched class's bitmap, averaged over the cells of all positives."""
    boxes = regressed.sources if config.train_boxes == "proposal" else regressed.boxes
    logits = head(rois.with_pooling(config.pooling).ragged(boxes))
    wished = mask_targets(boxes, regressed.objects, targets, logits.shape[-1])
    return {"mask": config.loss_weight * mask_bce(logits, torch.cat(regressed.labels), wished)}


def mask_targets(
    boxes: Sequence[Tensor], objects: Sequence[Tensor], targets: Sequence[Target], size: int
) -> Float[Tensor, "N size size"]:
    """The bitmaps wished for: each box's own object, cut out. Raises ValueError for truth without masks."""
    parts = []
    for own, matched, target in zip(boxes, objects, targets, strict=True):
        if target.masks is None and len(target.boxes):
            raise ValueError("this detector learns masks, but its ground truth has boxes only")
        if target.masks is None:
            parts.append(own.new_zeros(len(own), size, size))
        else:
            parts.append(target.masks.crop(own, matched, size))
    return torch.cat(parts)


def mask_bce(
    logits: Float[Tensor, "N C m m"], labels: Int[Tensor, " N"], wished: Float[Tensor, "N m m"]
) -> Tensor:
    """Mean over the cells of each row's own class, in float32; 0 with a graph for N = 0."""
    own = of_class(logits, labels).float()
    total = F.binary_cross_entropy_with_logits(own, wished.float(), reduction="sum")
    return total / losses.mean_over_processes(wished.numel(), logits.device)


def of_class(logits: Float[Tensor, "N C m m"], labels: Int[Tensor, " N"]) -> Float[Tensor, "N m m"]:
    """Each row's own class."""
    index = labels.reshape(-1, 1, 1, 1).expand(-1, 1, *logits.shape[-2:])
    return logits.gather(1, index).squeeze(1)


def with_masks(output: DetectorOutput, probabilities: Float[Tensor, "BK m m"]) -> DetectorOutput:
    """`output` with its masks: zero, as all else, in rows that report nothing."""
    batch, count = output.labels.shape
    reported = torch.arange(count, device=output.labels.device)[None] < output.num_detections[:, None]
    side = probabilities.shape[-1]
    masks = probabilities.reshape(batch, count, side, side) * reported[..., None, None]
    return output._replace(masks=masks)
