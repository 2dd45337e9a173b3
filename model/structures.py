"""What travels between the parts of the detector.

Legend (used in every shape of this package):
    B images in a batch; H, W padded height and width (multiples of 32); L feature levels; A anchors
    R proposals per image; D boxes per image the localization head looks at; C foreground classes
    K reported detections; m side of a mask
    boxes are float32 xyxy in input pixels (the letterboxed image); sizes are (height, width)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from model.masks import InstanceMasks


@dataclass(frozen=True)
class Target:
    """Ground truth of one image: `boxes` [g, 4], `labels` [g] in 0..C-1, regions to ignore [c, 4].

    `masks` of the g objects: only what learns masks needs them. `semantic`: the class of every input pixel of
    the valid area, 255 for none (HTC).
    """

    boxes: Float[Tensor, "g 4"]
    labels: Int[Tensor, " g"]
    crowd_boxes: Float[Tensor, "c 4"]
    masks: InstanceMasks | None = None
    semantic: UInt8[Tensor, "h w"] | None = None

    @staticmethod
    def empty(device: torch.device | str = "cpu") -> Target:
        """An image with nothing in it."""
        return Target(
            torch.zeros(0, 4, device=device),
            torch.zeros(0, dtype=torch.long, device=device),
            torch.zeros(0, 4, device=device),
        )

    def to(self, device: torch.device | str) -> Target:
        """The same target on another device."""
        return Target(
            self.boxes.to(device),
            self.labels.to(device),
            self.crowd_boxes.to(device),
            None if self.masks is None else self.masks.to(device),
            None if self.semantic is None else self.semantic.to(device),
        )


class Proposals(NamedTuple):
    """Fixed-size list of proposals: rows where `valid` is False are zero boxes."""

    boxes: Float[Tensor, "B R 4"]
    valid: Bool[Tensor, "B R"]


class Candidates(NamedTuple):
    """Final boxes before NMS. `boxes` is [B, D, 4], or [B, D, C, 4] when regression is class-specific.

    Class scores of padding rows are zero. The three qualities are None without a localization head.
    """

    boxes: Float[Tensor, "B D 4"] | Float[Tensor, "B D C 4"]
    class_scores: Float[Tensor, "B D C"]
    ious: Float[Tensor, "B D"] | None
    purities: Float[Tensor, "B D"] | None
    integrities: Float[Tensor, "B D"] | None


class DetectorOutput(NamedTuple):
    """Detections, best first; rows past `num_detections` are zero. Fields: model.onnx's outputs, in order."""

    num_detections: Int[Tensor, " B"]
    boxes: Float[Tensor, "B K 4"]
    labels: Int[Tensor, "B K"]
    scores: Float[Tensor, "B K"]
    class_scores: Float[Tensor, "B K"]
    ious: Float[Tensor, "B K"] | None
    purities: Float[Tensor, "B K"] | None
    integrities: Float[Tensor, "B K"] | None
    masks: Float[Tensor, "B K m m"] | None = None  # probabilities of the detection's own class, over its box


class Quality(NamedTuple):
    """What the localization head says of a box: probabilities in 0..1, all of one shape.

    A head that predicts the IoU directly knows neither purity nor integrity.
    """

    ious: Tensor
    purities: Tensor | None
    integrities: Tensor | None
