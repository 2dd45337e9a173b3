"""Instance masks as ground truth. Shapes: structures.py; m the side of a mask that the head predicts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class InstanceMasks:
    """The bitmaps of one image's g objects, each cut to its own frame.

    They take as many bytes as the objects have pixels; bitmaps of the image's size would take g times the
    image. `frames` [g, 4] are xyxy in whole input pixels, none empty; `pixels` [P] are the bitmaps' rows, one
    bitmap after the other, 1 where the object is.
    """

    pixels: UInt8[Tensor, " P"]
    frames: Int[Tensor, "g 4"]

    def __len__(self) -> int:
        return len(self.frames)

    @staticmethod
    def empty(device: torch.device | str = "cpu") -> InstanceMasks:
        """No objects."""
        return InstanceMasks(
            torch.zeros(0, dtype=torch.uint8, device=device),
            torch.zeros(0, 4, dtype=torch.long, device=device),
        )

    def to(self, device: torch.device | str) -> InstanceMasks:
        """The same masks on another device."""
        return InstanceMasks(self.pixels.to(device), self.frames.to(device))

    def crop(
        self, boxes: Float[Tensor, "N 4"], objects: Int[Tensor, " N"], size: int
    ) -> Float[Tensor, "N size size"]:
        """What a mask head should say of boxes[i] if objects[i] is its object: 1 or 0 in each of the cells.

        A cell is 1 where the object covers at least half of it; what lies outside the frame is not covered.
        """
        cover = boxes.new_zeros(len(boxes), size, size)
        frames = self.frames.tolist()
        sizes = [(y2 - y1) * (x2 - x1) for x1, y1, x2, y2 in frames]
        bitmaps = self.pixels.split(sizes)
        for index in objects.unique().tolist():
            x1, y1, x2, y2 = frames[index]
            bitmap = bitmaps[index].reshape(1, 1, y2 - y1, x2 - x1).to(boxes.dtype)
            # RoI-Align repeats a map's border for one pixel beyond it: let that be "not covered"
            bordered = F.pad(bitmap, (1, 1, 1, 1))
            rows = torch.nonzero(objects == index).squeeze(1)
            moved = boxes[rows] - boxes.new_tensor([x1 - 1, y1 - 1, x1 - 1, y1 - 1])
            rois = torch.cat([torch.zeros_like(moved[:, :1]), moved], dim=1)
            cells = torchvision.ops.roi_align(bordered, rois, size, 1.0, 0, aligned=True)
            cover[rows] = cells[:, 0]
        return (cover >= 0.5).to(boxes.dtype)
