"""Double-Head R-CNN: fully connected layers classify, convolutions regress.

Wu et al., "Rethinking Classification and Localization for Object Detection", 2020: a host for DIR, and the
source of Decoupled R-CNN's variant with convolutional regressors (DRCNN Table XI).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import losses
from model.config import HeadConfig
from model.heads.box_deltas import box_loss, decode_lists, decode_rows, deltas_of_class
from model.heads.host import (
    Host,
    Refined,
    Regressed,
    Rois,
    class_probabilities,
    most_confident,
    positive_lists,
    positives_of,
    take,
    valid_boxes,
)
from model.heads.layers import Classifier, output_layer
from model.structures import Proposals, Target

BOTTLENECKS = 4
LOSS_FACTOR = 2.0  # both losses: the paper trains a single stage at twice the weight
POOLED_SIDE = 7


def _conv_norm(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class _Widening(nn.Module):
    """The first block: [N, ch, s, s] -> [N, width, s, s], its shortcut a 1x1 convolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = _conv_norm(channels, channels, 3)
        self.conv2 = _conv_norm(channels, width, 1)
        self.shortcut = _conv_norm(channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class _Bottleneck(nn.Module):
    """[N, width, s, s] -> the same, through a quarter of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _conv_norm(width, width // 4, 1)
        self.conv2 = _conv_norm(width // 4, width // 4, 3)
        self.conv3 = _conv_norm(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(inner + x)


class ConvRegressor(nn.Module):
    """A widening block, four bottlenecks, average pooling and deltas: 4, or 4 * C when class-specific."""

    def __init__(self, in_features: int, classes: int, width: int) -> None:
        super().__init__()
        blocks = [_Bottleneck(width) for _ in range(BOTTLENECKS)]
        self.blocks = nn.Sequential(_Widening(in_features // POOLED_SIDE**2, width), *blocks)
        self.deltas = output_layer(width, 4 * classes, 0.001)

    def forward(self, pooled: Tensor) -> Tensor:
        """[N, ch, s, s] -> [N, 4 * classes]"""
        # Batch norm refuses an empty batch; every parameter stays in the graph. Not len(): export would take
        # the batch that it traces with for a constant.
        if pooled.shape[0] == 0:
            nothing = torch.stack([p.sum() for p in self.parameters()]).sum() * 0
            return pooled.new_zeros(0, self.deltas.out_features) + nothing
        return self.deltas(self.blocks(pooled).mean(dim=(2, 3)))  # type: ignore[no-any-return]


class DoubleHead(Host):
    """`classifier` reads the proposal, `regressor` a RoI `roi_scale` times as large about the same centre."""

    def __init__(self, in_features: int, config: HeadConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.classifier = Classifier(in_features, config.width, num_classes)
        classes = num_classes if config.class_specific_first else 1
        self.regressor = ConvRegressor(in_features, classes, config.width)

    def classify(self, pooled: Tensor) -> Tensor:
        """[N, ch, s, s] -> logits [N, C + 1], background last"""
        return self.classifier(pooled)  # type: ignore[no-any-return]

    def losses(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> tuple[dict[str, Tensor], Regressed]:
        """Faster R-CNN's two losses, doubled; only positives pass through the regressor."""
        samples = self.sample(valid_boxes(proposals[0]), targets)
        labels = torch.cat([s.labels for s in samples])
        positive = labels < self.num_classes
        logits = self.classify(rois.ragged([s.boxes for s in samples]))
        sources = [s.boxes[s.labels < self.num_classes] for s in samples]
        deltas = self.regressor(rois.ragged([self._wider(part) for part in sources]))
        own = deltas_of_class(deltas, labels[positive])
        boxes, truths = torch.cat(sources), torch.cat([s.truths for s in samples])[positive]
        box = box_loss(boxes, own, truths, self.config, float(len(labels)))
        terms = {
            "cls": LOSS_FACTOR * losses.cross_entropy(logits, labels),
            "box_1": LOSS_FACTOR * box,
        }
        final = decode_lists(sources, own, self.config, image_sizes)
        return terms, positives_of(samples, self.num_classes, final, sources)

    @torch.no_grad()
    def positives(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> Regressed:
        """Those of `losses` without their price: no classification."""
        samples = self.sample(valid_boxes(proposals[0]), targets)
        sources, labels = positive_lists(samples, self.num_classes)
        deltas = self.regressor(rois.ragged([self._wider(part) for part in sources]))
        final = decode_lists(sources, deltas_of_class(deltas, labels), self.config, image_sizes)
        return positives_of(samples, self.num_classes, final, sources)

    def refine(self, rois: Rois, proposals: Proposals, image_sizes: Tensor, looks: int | None) -> Refined:
        """Only the proposals that are kept pass through the convolutions."""
        scores = class_probabilities(self.classify(rois.fixed(proposals.boxes)), proposals.valid)
        rows = most_confident(scores, looks)
        sources = take(proposals.boxes, rows)
        deltas = self.regressor(rois.fixed(self._wider(sources))).reshape(*sources.shape[:2], -1)
        boxes = decode_rows(sources, deltas, self.config, image_sizes)
        return Refined(boxes, take(scores, rows), sources)

    def _wider(self, boxes: Tensor) -> Tensor:
        """Boxes [..., 4] grown about their centres; RoI-Align copes with what lies outside the image."""
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2
        half = (boxes[..., 2:] - boxes[..., :2]) / 2 * self.config.roi_scale
        return torch.cat([centre - half, centre + half], dim=-1)
