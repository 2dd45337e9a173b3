"""Region proposal network: which of all anchors are worth a second look."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import boxes as box_ops
from model import losses
from model.anchors import cell_anchors, pyramid_anchors
from model.config import RpnConfig, Stds
from model.ops import batched_nms
from model.sampling import IGNORED, NEGATIVE, match, pick
from model.structures import Proposals, Target

RPN_STDS: Stds = (1.0, 1.0, 1.0, 1.0)


class RegionProposalNetwork(nn.Module):
    """Objectness and deltas per anchor; decoded, suppressed per level, cut to a fixed number of proposals."""

    def __init__(self, config: RpnConfig, in_channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.strides = tuple(strides)
        per_cell = len(config.anchor_ratios)
        channels = config.channels or in_channels
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.deeper = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.conv_depth - 1)
        )
        self.objectness = nn.Conv2d(channels, per_cell, 1)
        self.deltas = nn.Conv2d(channels, per_cell * 4, 1)
        for conv in (self.conv, *self.deeper, self.objectness, self.deltas):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        for i, size in enumerate(config.anchor_sizes):
            cell = cell_anchors([size], config.anchor_ratios, rounded=config.anchors_rounded)
            self.register_buffer(f"cell_{i}", cell, persistent=False)

    def forward(
        self, features: Sequence[Tensor], image_hw: tuple[int, int]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Per level: logits [B, A], deltas [B, A, 4], anchors [A, 4]; anchors innermost at each position."""
        logits, deltas = [], []
        for feature in features:
            hidden = F.relu(self.conv(feature))
            for conv in self.deeper:
                hidden = F.relu(conv(hidden))
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1).float())
            level_deltas = self.deltas(hidden).permute(0, 2, 3, 1)
            # view as [B, h, w, per_cell, 4]: channels hold (anchor, coordinate)
            deltas.append(level_deltas.unflatten(-1, (-1, 4)).flatten(1, 3).float())
        cells = [self.get_buffer(f"cell_{i}") for i in range(len(features))]
        level_hw = [(f.shape[-2], f.shape[-1]) for f in features]
        anchors = pyramid_anchors(
            cells, level_hw, self.strides, image_hw, stride_from_image=self.config.stride_from_image
        )
        return logits, deltas, anchors

    @torch.no_grad()
    def propose(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        image_sizes: Tensor,
        nms_thresholds: Sequence[float],
    ) -> list[Proposals]:
        """Proposals [B, R, 4] for each NMS threshold, from one decoding: DRCNN §IV-A (NMS_cls, NMS_reg)."""
        config = self.config
        pre_nms = config.pre_nms_train if self.training else config.pre_nms_test
        post_nms = config.post_nms_train if self.training else config.post_nms_test
        level_boxes, level_scores = [], []
        for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors, strict=True):
            # Padding makes top-k's k legal on any feature size, and every level the same length.
            padded = F.pad(level_logits, (0, pre_nms), value=-torch.inf)
            scores, rows = padded.topk(pre_nms, dim=1)
            rows = torch.where(scores > -torch.inf, rows, 0)
            chosen = level_anchors[rows]
            picked = level_deltas.gather(1, rows[..., None].expand(-1, -1, 4))
            decoded = box_ops.decode(chosen, picked, RPN_STDS, shrink_limited=config.shrink_limited)
            boxes = box_ops.clip(decoded, image_sizes)
            # Ranked by logits: sigmoid saturates and would tie.
            scores = torch.where(box_ops.is_small(boxes, config.min_side), -torch.inf, scores)
            level_boxes.append(boxes)
            level_scores.append(scores)
        boxes = torch.stack(level_boxes, dim=1)  # [B, L, k, 4]
        scores = torch.stack(level_scores, dim=1)  # [B, L, k]
        groups_of_boxes, groups_of_scores = boxes.flatten(0, 1), scores.flatten(0, 1)[:, None]
        proposals = []
        for threshold in nms_thresholds:
            # Levels are suppressed apart as groups [B * L, 1, k]; shifting coordinates per level would lose
            # precision.
            keep = batched_nms(groups_of_boxes, groups_of_scores, scores.new_full((1,), threshold))
            kept_scores = torch.where(keep.reshape(scores.shape), scores, -torch.inf).flatten(1)
            best, rows = F.pad(kept_scores, (0, post_nms), value=-torch.inf).topk(post_nms, dim=1)
            valid = best > -torch.inf
            rows = torch.where(valid, rows, 0)
            picked = boxes.flatten(1, 2).gather(1, rows[..., None].expand(-1, -1, 4))
            proposals.append(Proposals(picked * valid[..., None], valid))
        return proposals

    def losses(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Binary cross-entropy and L1 over a balanced sample of anchors, both averaged over the sample."""
        all_logits, all_deltas = torch.cat(list(logits), dim=1), torch.cat(list(deltas), dim=1)
        all_anchors = torch.cat(list(anchors))
        cls_loss, box_loss, sampled = all_logits.sum() * 0, all_deltas.sum() * 0, 0
        for i, target in enumerate(targets):
            matched = self._match(all_anchors, target)
            wanted = int(self.config.batch_per_image * self.config.positive_fraction)
            positive = pick(torch.nonzero(matched >= 0).squeeze(1), wanted)
            negative = pick(
                torch.nonzero(matched == NEGATIVE).squeeze(1), self.config.batch_per_image - len(positive)
            )
            rows = torch.cat([positive, negative])
            labels = torch.zeros_like(rows, dtype=torch.float32)
            labels[: len(positive)] = 1
            sampled += len(rows)
            cls_loss = cls_loss + F.binary_cross_entropy_with_logits(
                all_logits[i, rows], labels, reduction="sum"
            )
            if len(positive):
                wished = box_ops.encode(all_anchors[positive], target.boxes[matched[positive]], RPN_STDS)
                box_loss = box_loss + (all_deltas[i, positive] - wished).abs().sum()
        count = losses.mean_over_processes(sampled, all_logits.device)
        return {"rpn_cls": cls_loss / count, "rpn_box": box_loss / count}

    def _match(self, anchors: Tensor, target: Target) -> Tensor:
        matched = match(anchors, target, self.config.positive_iou, self.config.negative_iou, rescue=True)
        assert IGNORED < NEGATIVE < 0  # the sample is drawn from >= 0 and == NEGATIVE: the rest is ignored
        return matched
