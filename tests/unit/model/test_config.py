"""A typo in a name, an option or a setting raises at once, and says what was probably meant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from model.config import DetectorConfig, HeadConfig, LocalizationConfig, NmsConfig, RpnConfig, nearest
from model.zoo import MODELS, build, config_of


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hindsigt", {}, "unknown detector 'hindsigt': did you mean 'hindsight'?"),
        (
            "yolo",
            {},
            "unknown detector 'yolo': known: " + ", ".join(MODELS),
        ),
        ("hindsight", {"backbon": "resnet50"}, "hindsight has no option 'backbon': did you mean 'backbone'?"),
        ("faster_rcnn", {"stages": 3}, "faster_rcnn has no option 'stages': known: backbone"),
    ],
)
def test_wrong_names_get_the_nearest_right_one(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        config_of(name, 3, **options)
    assert str(caught.value) == message


def test_build_checks_names_too() -> None:
    with pytest.raises(ValueError, match="did you mean 'faster_rcnn'"):
        build("faster_rcn", 3)


@pytest.mark.parametrize("name", MODELS)
def test_every_named_detector_has_a_valid_config(name: str) -> None:
    config = config_of(name, 7)
    assert config.num_classes == 7 and (config.localization is not None) == (
        name.endswith("_dir") or name == "hindsight"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"head": HeadConfig(kind="cascaded")}, "head.kind"),
        ({"rpn": RpnConfig(anchor_sizes=(32, 64))}, "5 entries"),
        ({"head": HeadConfig(stages=5)}, r"head.stages must be 1..4, got 5"),
        ({"head": HeadConfig(stages=0)}, r"head.stages must be 1..4, got 0"),
        ({"head": HeadConfig(kind="shared", stages=3)}, "one regression stage"),
        (
            {"head": HeadConfig(class_specific_first=True), "localization": LocalizationConfig()},
            "class-agnostic",
        ),
        ({"nms": NmsConfig(kind="iou_guided"), "localization": None}, "needs a localization head"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DetectorConfig(3), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "soft_lineer"}, "got 'soft_lineer': did you mean 'soft_linear'"),
        ({"sigma": 0.0}, "nms.sigma must be positive and finite, got 0.0"),
        ({"sigma": float("nan")}, "nms.sigma must be positive and finite, got nan"),
        ({"min_score": 1.0}, "nms.min_score must be at least 0 and below 1, got 1.0"),
        ({"min_score": -0.1}, "nms.min_score"),
    ],
)
def test_nms_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NmsConfig(**changes)


def test_nearest_lists_what_is_known_when_nothing_is_near() -> None:
    assert nearest("zzz", ["alpha", "beta"]) == "known: alpha, beta"
    assert nearest("betta", ["alpha", "beta"]) == "did you mean 'beta'?"
