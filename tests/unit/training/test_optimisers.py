"""Which parameters learn how fast, and what splitting a batch changes: nothing but memory."""

from __future__ import annotations

import pytest
import torch

from tests.unit.model.toys import toy_detector
from training.optimisers import build_optimiser, set_rate
from training.recipe import Optimisation


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_localization_head_can_learn_faster_than_its_host(name: str) -> None:
    detector = toy_detector(spread=False)
    optimiser = build_optimiser(
        detector, Optimisation(optimiser=name, localization_lr_factor=3.0, weight_decay=0.1)
    )
    set_rate(optimiser, 0.02)
    names = {id(p): n for n, p in detector.named_parameters()}
    seen = set()
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            own = names[id(parameter)]
            seen.add(own)
            assert group["lr"] == pytest.approx(0.06 if own.startswith("localization.") else 0.02)
            assert group["weight_decay"] == (0.1 if parameter.dim() > 1 else 0.0)
    assert seen == {n for n, p in detector.named_parameters() if p.requires_grad}


def test_frozen_parameters_are_no_business_of_the_optimiser() -> None:
    detector = toy_detector(spread=False)
    detector.backbone.requires_grad_(False)
    optimiser = build_optimiser(detector, Optimisation())
    assert not any(
        p is q for g in optimiser.param_groups for p in g["params"] for q in detector.backbone.parameters()
    )
    assert all(isinstance(p, torch.nn.Parameter) for g in optimiser.param_groups for p in g["params"])
