"""A whole detector small enough to build and run in a blink, on images of 64 x 96 pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from model.config import BackboneConfig, DetectorConfig, HeadConfig, LocalizationConfig, RpnConfig
from model.detector import TwoStageDetector
from model.structures import DetectorOutput, Target

CLASSES = 3
HEIGHT, WIDTH = 64, 96


def toy_config(**changes: Any) -> DetectorConfig:
    """The flagship's parts at toy width; `changes` replace whole sections."""
    config = DetectorConfig(
        CLASSES,
        BackboneConfig("test_efficientnet", min_level=3, max_level=5, fpn_channels=16, frozen_levels=0),
        RpnConfig(
            anchor_sizes=(12, 24, 48, 96),
            pre_nms_train=60,
            pre_nms_test=40,
            post_nms_train=40,
            post_nms_test=30,
            batch_per_image=64,
        ),
        head=HeadConfig(width=16, batch_per_image=32),
        localization=LocalizationConfig(width=16, boxes_at_inference=20),
        max_detections=25,
    )
    return replace(config, **changes)


def toy_detector(seed: int = 0, *, spread: bool = True, **changes: Any) -> TwoStageDetector:
    """In evaluation mode. `spread`: predictions differ from box to box, as a trained detector's do."""
    torch.manual_seed(seed)
    detector = TwoStageDetector(toy_config(**changes)).eval()
    if spread:
        _spread(detector)
    return detector


def toy_images(count: int, seed: int = 0) -> Tensor:
    """Rectangles of random colours on noise: uint8 [count, 64, 96, 3]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 60, (count, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
    for image in images:
        for _ in range(4):
            top, left = (
                int(torch.randint(0, limit - 20, (), generator=generator)) for limit in (HEIGHT, WIDTH)
            )
            colour = torch.randint(80, 256, (3,), generator=generator, dtype=torch.uint8)
            image[top : top + 18, left : left + 16] = colour
    return images


def full_size(images: Tensor) -> Tensor:
    """image_sizes of images without padding."""
    return torch.tensor([images.shape[1:3]] * len(images))


def toy_targets() -> list[Target]:
    """Two images: two objects and a crowd; nothing."""
    boxes = torch.tensor([[6.0, 8.0, 34.0, 40.0], [50.0, 20.0, 90.0, 60.0]])
    crowd = torch.tensor([[0.0, 44.0, 30.0, 64.0]])
    return [Target(boxes, torch.tensor([0, 2]), crowd), Target.empty()]


def number(value: Tensor) -> float:
    """A scalar that may still carry its graph."""
    return float(value.detach())


@torch.no_grad()
def detect(
    detector: TwoStageDetector,
    images: Tensor,
    sizes: Tensor | None = None,
    *,
    class_threshold: float = 0.05,
    score_threshold: float = 0.0,
    iou_weight: float = 0.5,
    nms_threshold: float = 0.5,
) -> DetectorOutput:
    """The detector with the same options for every image."""
    fill = torch.ones(len(images))
    output: DetectorOutput = detector(
        images,
        full_size(images) if sizes is None else sizes,
        fill * class_threshold,
        fill * score_threshold,
        fill * iou_weight,
        torch.tensor([nms_threshold]),
    )
    return output


@torch.no_grad()
def _spread(detector: TwoStageDetector) -> None:
    """Centre and rescale what the output layers say on a probe: fresh weights score everything alike."""
    wanted: dict[nn.Module, float] = {detector.rpn.objectness: 2.0, detector.rpn.deltas: 0.15}
    for name, layer in detector.named_modules():
        if ".sibling." in name:  # TSD's: it is not asked at inference
            continue
        if name.endswith(("offsets.bins", "offsets.shift")):  # TSD's: moves of a fifth of a side
            wanted[layer] = 2.0
        if isinstance(layer, nn.Linear) and layer.out_features in (1, 4, CLASSES + 1, 4 * CLASSES):
            wanted[layer] = 0.7 if name.endswith("deltas") else 2.0

    def rescale(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        assert isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None
        axes = [axis for axis in range(output.dim()) if axis != 1]
        mean = output.mean(dim=axes)
        shape = [1, -1] + [1] * (output.dim() - 2)
        factor = wanted[layer] / (output - mean.reshape(shape)).std()
        layer.weight.mul_(factor)
        layer.bias.sub_(mean).mul_(factor)
        for done in [h for h in hooks if h[0] is layer]:
            done[1].remove()
            hooks.remove(done)
        return (output - mean.reshape(shape)) * factor

    hooks = [(layer, layer.register_forward_hook(rescale)) for layer in wanted]
    probe = toy_images(2, seed=99)
    detector.candidates(probe, full_size(probe))
    assert not hooks
