"""Boxes and scores that break suppression, shared by the tests on the host grid and on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

ABSENT = -float("inf")
THRESHOLDS = [0.0, 0.3, 1 / 3, 0.5, 0.7, 1.0]
NAN, INFINITE = float("nan"), float("inf")
Case = tuple[Tensor, Tensor]  # boxes [G, N, 4], scores [G, C, N]


def crowd(seed: int, groups: int, classes: int, count: int, side: float = 60.0) -> Case:
    """Overlapping boxes with scores of their own, a third of the rows absent."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(groups, count, 2, generator=generator) * side
    wh = 2 + torch.rand(groups, count, 2, generator=generator) * side / 2
    scores = torch.rand(groups, classes, count, generator=generator)
    present = torch.rand(groups, classes, count, generator=generator) > 1 / 3
    return torch.cat([corner, corner + wh], dim=-1), torch.where(present, scores, ABSENT)


def coarse(seed: int, groups: int, classes: int, count: int) -> Case:
    """A coarse grid and few scores: ties, copies, empty boxes and IoUs exactly at a threshold are common."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(0, 5, (groups, count, 4), generator=generator).float() * 2
    boxes = torch.cat([cells[..., :2], cells[..., :2] + cells[..., 2:]], dim=-1)
    values = torch.tensor([ABSENT, -3.0, 0.0, -0.0, 0.5, 0.5, 2.0])
    return boxes, values[torch.randint(0, 7, (groups, classes, count), generator=generator)]


def degenerate() -> dict[str, Case]:
    """By name. Scores within 0..1, so that they suit soft NMS too."""
    apart = torch.arange(130.0)[:, None] * 20 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    same = torch.tensor([3.0, 4.0, 33.0, 44.0]).repeat(130, 1)
    ramp = torch.linspace(0.1, 0.9, 130)
    boxes, scores = crowd(9, 1, 1, 70)
    odd = boxes[0].clone()
    odd[3, 1] = odd[40] = NAN
    odd[7, 2] = odd[50, 3] = INFINITE
    odd[11, 0] = -INFINITE
    odd_scores = scores[0, 0].clone()
    odd_scores[[2, 5, 64]] = NAN
    cases = {
        "one box": (same[:1], ramp[:1]),
        "one box, absent": (same[:1], torch.tensor([ABSENT])),
        "no box present": (same, torch.full((130,), ABSENT)),
        "all suppressed by one": (same, ramp),
        "none suppressed": (apart, ramp),
        "identical scores": (boxes[0], torch.full((70,), 0.5)),
        "zero area": (torch.tensor([5.0, 5.0, 5.0, 9.0]).repeat(70, 1), ramp[:70]),
        "exactly one tile": (boxes[0, :64], ramp[:64]),
        "NaN and infinite boxes": (odd, ramp[:70]),
        "NaN scores": (boxes[0], odd_scores),
        "saturated scores": (boxes[0], (ramp[:70] * 3).clamp(max=1)),
    }
    return {
        name: (case_boxes[None], case_scores[None, None]) for name, (case_boxes, case_scores) in cases.items()
    }
