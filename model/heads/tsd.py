"""Task-aware spatial disentanglement: where to look is each task's own choice.

Song et al., "Revisiting the Sibling Head in Object Detector", 2020: a host for DIR (DIR Table 2). Two small
predictors read a proposal's features. One moves each bin of the pooling grid, for the classifier: parts that
tell a class lie anywhere in an object. The other moves the whole proposal, for the regressor: what tells a
box are its borders. A Faster R-CNN head, the sibling, trains beside the two as the standard to beat, and is
left out at inference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from model import boxes as box_ops
from model import losses
from model.config import HeadConfig
from model.heads.box_deltas import (
    box_loss,
    decode,
    decode_lists,
    decode_rows,
    deltas_of_class,
    split_like,
)
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
from model.heads.layers import Classifier, Regressor, output_layer
from model.heads.shared import SharedHead
from model.ops import deform_pool_ragged, deform_roi_pool
from model.sampling import ClassificationSample
from model.structures import Proposals, Target


class OffsetPredictor(nn.Module):
    """Two predictors on one first layer; all layers fully connected, gamma = `scale` on what they say."""

    def __init__(self, in_features: int, width: int, side: int, scale: float) -> None:
        super().__init__()
        self.side, self.scale = side, scale
        self.stem, self.bins_hidden, self.shift_hidden = (
            nn.Linear(inputs, width) for inputs in (in_features, width, width)
        )
        for layer in (self.stem, self.bins_hidden, self.shift_hidden):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        # both tasks start from the proposal as it stands
        self.bins = output_layer(width, 2 * side * side, 0.001)
        self.shift = output_layer(width, 2, 0.001)

    def forward(self, pooled: Float[Tensor, "N ch s s"]) -> tuple[Tensor, Tensor]:
        """Offsets of each bin [N, 2, s, s] and of the proposal [N, 2]: (dx, dy) as shares of its sides."""
        stem = F.relu(self.stem(pooled.flatten(1)))
        bins = self.bins(F.relu(self.bins_hidden(stem))).unflatten(1, (2, self.side, self.side))
        return self.scale * bins, self.scale * self.shift(F.relu(self.shift_hidden(stem)))


class TsdHead(Host):
    """`classifier` and `regressor` read what `offsets` chose for them; `sibling` reads the proposal."""

    def __init__(self, in_features: int, config: HeadConfig, num_classes: int, side: int) -> None:
        """`in_features`: those of a pooled RoI, ch * side * side."""
        super().__init__()
        self.config, self.num_classes, self.side = config, num_classes, side
        self.sibling = SharedHead(in_features, config, num_classes)
        self.offsets = OffsetPredictor(in_features, config.offset_width, side, config.offset_scale)
        self.classifier = Classifier(in_features, config.width, num_classes)
        classes = num_classes if config.class_specific_first else 1
        self.regressor = Regressor(in_features, config.width, classes)

    def classify(self, pooled: Tensor) -> Tensor:
        """Features of moved bins [N, ch, s, s] -> logits [N, C + 1], background last"""
        return self.classifier(pooled)  # type: ignore[no-any-return]

    def classify_boxes(self, rois: Rois, boxes: Tensor, pooled: Tensor) -> Tensor:
        """Logits of boxes [B, N, 4]: their features `pooled` only say where to look."""
        return self._classify_moved(rois, boxes, self.offsets(pooled)[0])

    def losses(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> tuple[dict[str, Tensor], Regressed]:
        """Faster R-CNN's two losses of the sibling and of the disentangled branches; progressive constraint.

        Deltas are wished, and boxes decoded, from the moved proposal: the move learns from both losses.
        """
        samples = self.sample(valid_boxes(proposals[0]), targets)
        lists = [s.boxes for s in samples]
        boxes, labels = torch.cat(lists), torch.cat([s.labels for s in samples])
        positive = labels < self.num_classes
        sources, own_labels = positive_lists(samples, self.num_classes)
        truths = torch.cat([s.truths for s in samples])[positive]
        pooled = rois.ragged(lists)
        bins, shift = self.offsets(pooled)

        sibling_logits, sibling_deltas = self.sibling(pooled)
        sibling_deltas = deltas_of_class(sibling_deltas[positive], own_labels)
        logits = self.classify(self._pool_ragged(rois, lists, bins * _sides(boxes)[..., None, None]))
        moved, deltas = self._regress(rois, sources, shift[positive], own_labels)

        count = float(len(labels))
        terms = {
            "cls": losses.cross_entropy(sibling_logits, labels),
            "box_1": box_loss(boxes[positive], sibling_deltas, truths, self.config, count),
            "tsd_cls": losses.cross_entropy(logits, labels),
            "tsd_box": box_loss(moved, deltas, truths, self.config, count),
            "progressive_cls": progressive_loss(
                _confidence(logits, labels), _confidence(sibling_logits, labels), self.config.class_margin
            ),
            "progressive_box": progressive_loss(
                self._iou(moved, deltas, truths),
                self._iou(boxes[positive], sibling_deltas, truths),
                self.config.iou_margin,
            ),
        }
        return terms, self._regressed(samples, moved, deltas, sources, image_sizes)

    @torch.no_grad()
    def positives(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> Regressed:
        """Those of `losses` without their price: neither sibling nor classification."""
        samples = self.sample(valid_boxes(proposals[0]), targets)
        sources, labels = positive_lists(samples, self.num_classes)
        shift = self.offsets(rois.ragged(sources))[1]
        moved, deltas = self._regress(rois, sources, shift, labels)
        return self._regressed(samples, moved, deltas, sources, image_sizes)

    def refine(self, rois: Rois, proposals: Proposals, image_sizes: Tensor, looks: int | None) -> Refined:
        """The disentangled branches alone; only the proposals that are kept are pooled for the regressor."""
        bins, shift = self.offsets(rois.fixed(proposals.boxes))
        scores = class_probabilities(self._classify_moved(rois, proposals.boxes, bins), proposals.valid)
        rows = most_confident(scores, looks)
        boxes = take(proposals.boxes, rows)
        moves = take(shift.reshape(*proposals.valid.shape, 2), rows) * _sides(boxes)
        pooled = self._pool_fixed(rois, boxes, self._every_bin(moves))
        deltas = self.regressor(pooled).reshape(*boxes.shape[:2], -1)
        sources = boxes + moves.repeat(1, 1, 2)
        final = decode_rows(sources, deltas, self.config, image_sizes)
        return Refined(final, take(scores, rows), sources)

    def _classify_moved(self, rois: Rois, boxes: Tensor, bins: Tensor) -> Tensor:
        """boxes [B, N, 4], bins [B * N, 2, s, s] -> logits [B * N, C + 1]"""
        moves = bins.unflatten(0, boxes.shape[:2]) * _sides(boxes)[..., None, None]
        return self.classify(self._pool_fixed(rois, boxes, moves))

    def _regress(
        self, rois: Rois, sources: Sequence[Tensor], shift: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(moved boxes, deltas of each one's class), [P, 4] each, of the positives in `sources`."""
        boxes = torch.cat(list(sources))
        moves = shift * _sides(boxes)
        deltas = self.regressor(self._pool_ragged(rois, sources, self._every_bin(moves)))
        return boxes + moves.repeat(1, 2), deltas_of_class(deltas, labels)

    def _every_bin(self, moves: Float[Tensor, "*N 2"]) -> Float[Tensor, "*N 2 s s"]:
        """All bins of a box move alike."""
        return moves[..., None, None].expand(*moves.shape, self.side, self.side)

    def _pool_fixed(self, rois: Rois, boxes: Tensor, moves: Tensor) -> Tensor:
        how = (rois.strides, self.config.bin_samples, rois.pooling.aligned)
        return deform_roi_pool(rois.pyramid, boxes, moves, *how)

    def _pool_ragged(self, rois: Rois, boxes: Sequence[Tensor], moves: Tensor) -> Tensor:
        how = (rois.strides, self.config.bin_samples, rois.pooling.aligned)
        return deform_pool_ragged(rois.pyramid, boxes, moves, *how)

    def _iou(self, boxes: Tensor, deltas: Tensor, truths: Tensor) -> Tensor:
        return box_ops.paired_quality(decode(boxes, deltas, self.config), truths)[0]

    @torch.no_grad()
    def _regressed(
        self,
        samples: Sequence[ClassificationSample],
        moved: Tensor,
        deltas: Tensor,
        lists: Sequence[Tensor],
        image_sizes: Tensor,
    ) -> Regressed:
        """`lists` tell which of `moved` and `deltas` belong to which image."""
        sources = split_like(moved.detach(), lists)
        final = decode_lists(sources, deltas, self.config, image_sizes)
        return positives_of(samples, self.num_classes, final, sources)


def progressive_loss(own: Float[Tensor, " N"], sibling: Float[Tensor, " N"], margin: float) -> Tensor:
    """Mean of what `own`, in 0..1, lacks to exceed the sibling's by the margin; 0 with a graph for N = 0.

    The sibling is the standard, so it learns nothing from this; where less than the margin is left above it,
    1 is enough.
    """
    standard = sibling.detach()
    wished = standard + (1 - standard).clamp(max=margin)
    return F.relu(wished - own).sum() / losses.mean_over_processes(len(own), own.device)


def _confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Probability of each row's own class, background included: [N, C + 1], [N] -> [N]"""
    own: Tensor = logits.float().softmax(dim=-1).gather(1, labels[:, None]).squeeze(1)
    return own


def _sides(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 2"]:
    return boxes[..., 2:] - boxes[..., :2]
