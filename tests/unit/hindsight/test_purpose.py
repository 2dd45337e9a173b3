"""A model's intended use and limits in words."""

from __future__ import annotations

from pathlib import Path

from hindsight.artifact import ResizeRule
from hindsight.purpose import intended_use, limits
from tests.factories import make_tiny_artifact


def test_the_use_names_the_classes_and_the_numbers(tmp_path: Path) -> None:
    judging = intended_use(make_tiny_artifact(tmp_path / "tiny").manifest)
    assert judging.startswith("Finding red, green, blue in ") and "purity" in judging
    assert "mask" not in judging
    plain = intended_use(make_tiny_artifact(tmp_path / "plain", localization=False, masks=True).manifest)
    assert "purity" not in plain and "with a mask" in plain


def test_hundreds_of_classes_are_counted(tmp_path: Path) -> None:
    names = [f"kind{number}" for number in range(300)]
    said = intended_use(make_tiny_artifact(tmp_path / "many", class_names=names).manifest)
    assert "kind19 and 280 more classes in " in said and "kind20" not in said


def test_the_limits_tell_the_size_that_is_looked_at(tmp_path: Path) -> None:
    manifest = make_tiny_artifact(tmp_path, resize=ResizeRule(64, 128, 32), max_detections=7).manifest
    assert "short side of 64 px (long side at most 128)" in limits(manifest)
    assert "At most 7 detections" in limits(manifest)
