"""The papers' tables as data: every row can be read, and either built or refused with its reason."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.config import DetectorConfig
from model.zoo import MODELS
from training.published.recipes import NotInThisBuild, merged, missing, recipe_for, with_inference
from training.published.rows import (
    FOLDER,
    PublishedError,
    Row,
    known_tables,
    load_table,
    parse_settings,
    read_table,
    slug,
)
from training.recipe import RecipeError

# Systems of the papers that a build may lack; any other name in a table is a mistake.
MAY_BE_MISSING = {
    "it needs the detector 'mask_rcnn'",
    "it needs the detector 'mask_rcnn_dir'",
    "it needs the detector 'htc'",
    "it needs the detector 'htc_dir'",
    "it needs the setting detector.backbone.deformable",
    "it needs the setting optimisation.localization_lr_factor",
}
HEADER = "table,row,model,backbone,schedule,data,training,inference,AP,note\n"


def all_rows() -> Iterator[Row]:
    for table in known_tables():
        yield from load_table(table).rows


def row(table: str, number: int) -> Row:
    return load_table(table).rows[number - 1]


def config(table: str, number: int) -> DetectorConfig:
    chosen = row(table, number)
    return with_inference(recipe_for(chosen).detector_config(80), chosen.inference)


def test_every_file_is_a_table_and_every_table_has_its_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.csv")} == {slug(table) for table in known_tables()}
    assert {f"dir:table{n}" for n in range(1, 7)} | {f"drcnn:table{n}" for n in range(1, 12)} < set(
        known_tables()
    )


def test_every_row_builds_or_says_what_the_build_lacks() -> None:
    built = 0
    for published in all_rows():
        reason = missing(published)
        if reason is None:
            with_inference(recipe_for(published).detector_config(80), published.inference)
            built += 1
            continue
        assert published.model is None or reason.partition(", which")[0] in MAY_BE_MISSING, published
        with pytest.raises(NotInThisBuild, match="can't be run"):
            recipe_for(published)
    assert built > 80


def test_every_row_expects_a_figure() -> None:
    for published in all_rows():
        figures = [value for name, value in published.expected.items() if name in ("AP", "pearson")]
        assert figures and all(value is not None for value in figures), published


@pytest.mark.parametrize(
    ("table", "number", "column", "figure"),
    [
        ("dir:table1", 1, "AP", 36.4),
        ("dir:table3", 6, "AP75", 42.5),
        ("dir:table5", 6, "AP", 38.9),
        ("dir:table6", 14, "AP", 51.3),
        ("dir:figure4", 4, "pearson", 0.755),
        ("drcnn:table7", 6, "AP90", 29.4),
        ("drcnn:table8", 3, "params", 83.22),
        ("drcnn:table9", 37, "AP", 47.2),
        ("drcnn:table11", 4, "params", 58.30),
    ],
)
def test_headline_figures_stand_where_they_belong(
    table: str, number: int, column: str, figure: float
) -> None:
    assert row(table, number).expected[column] == figure


def test_settings_reach_the_detector() -> None:
    assert config("drcnn:table3", 1).rpn.nms_threshold_regression == 0.7
    assert config("drcnn:table4", 4).head.stages == 4
    assert config("dir:table1", 2).nms.kind == "soft_linear"
    foresight = config("dir:table3", 2).localization
    assert foresight is not None
    assert (foresight.kind, foresight.train_features, foresight.test_features) == (
        "iou",
        "proposal",
        "proposal",
    )
    assert recipe_for(row("drcnn:table9", 37)).augment.scales == (640, 672, 704, 736, 768, 800)
    assert recipe_for(row("drcnn:table9", 37)).optimisation.milestones == (16, 22)
    assert row("drcnn:table9", 37).inference.class_threshold == 0.001


def test_rows_that_differ_at_inference_only_train_the_same() -> None:
    combinations = [recipe_for(published) for published in load_table("dir:table5").rows[1:]]
    assert all(recipe == combinations[0] for recipe in combinations)
    assert combinations[0] == recipe_for(row("dir:table3", 6)) == recipe_for(row("dir:table1", 4))
    assert recipe_for(row("dir:table3", 2)) != recipe_for(row("dir:table3", 4))


def test_one_training_written_in_two_ways_is_one() -> None:
    """NMS_reg = .85 is spelt out in one table and the default of another."""
    assert row("drcnn:table3", 4).training != row("drcnn:table7", 5).training
    assert recipe_for(row("drcnn:table3", 4)) == recipe_for(row("drcnn:table7", 5))


def test_overrides_lie_on_top_and_skip_a_head_that_is_not_there() -> None:
    overrides = {"detector": {"head": {"width": 8}, "localization": {"width": 4}}}
    plain = recipe_for(row("dir:table3", 1), overrides).detector_config(80)
    assert (plain.head.width, plain.localization) == (8, None)
    headed = recipe_for(row("dir:table3", 6), overrides).detector_config(80)
    assert headed.localization is not None
    assert headed.localization.width == 4
    with pytest.raises(RecipeError, match="did you mean 'width'"):
        recipe_for(row("dir:table3", 1), {"detector": {"head": {"widht": 8}}})


def test_a_detector_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(MODELS, "cascade_rcnn")
    with pytest.raises(NotInThisBuild, match=r"row 9 of dir:table1 \(Cascade R-CNN\).*'cascade_rcnn'"):
        recipe_for(row("dir:table1", 9))


def test_rows_are_chosen_by_number_range_and_label() -> None:
    table = load_table("dir:table3")
    assert [r.number for r in table.choose("4-5, faster r-cnn")] == [1, 4, 5]
    assert table.choose(None) == table.rows
    for wrong in ("7", "0-2", "3-2", "Faster", "1-x"):
        with pytest.raises(PublishedError, match="it has 1 = Faster R-CNN, 2 = Foresight IoU"):
            table.choose(wrong)
    with pytest.raises(PublishedError, match="names no row"):
        table.choose(" , ")


def test_an_unknown_table_lists_the_known() -> None:
    with pytest.raises(PublishedError, match="unknown table 'dir:table9': known are dir:table1, dir:table2"):
        load_table("dir:table9")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("y:t,a,faster_rcnn,resnet50,dir-coco-1x,coco-val,,,36.4,", "table is 'y:t', expected 'x:t'"),
        ("x:t,,faster_rcnn,resnet50,dir-coco-1x,coco-val,,,36.4,", "label must have no comma"),
        ("x:t,a,faster_rcnn,resnet50,dir-coco-1x,coco,,,36.4,", "data must be one of coco-val"),
        ("x:t,a,faster_rcnn,resnet50,,coco-val,,,36.4,", "faster_rcnn needs a schedule"),
        ("x:t,a,,resnet50,dir-coco-1x,coco-val,,,36.4,", "without a model has no schedule"),
        ("x:t,a,faster_rcnn,resnet50,dir-coco-1x,coco-val,,,36.4%,", "could not convert"),
        ("x:t,a,faster_rcnn,resnet50,dir-coco-1x,coco-val,,,364,", r"AP must lie in 0\.\.100"),
        ("x:t,a,faster_rcnn,resnet50,dir-coco-1x,coco-val,,,nan,", r"AP must lie in 0\.\.100"),
        ("x:t,a,faster_rcnn,resnet50,dir-coco-1x,coco-val,,iou_weight = 1,36.4,", "with a decimal point"),
        ("x:t,a,faster_rcnn,resnet50,dir-coco-1x,coco-val,,nms = 'x',36.4,", "inference can set"),
        ("x:t,a,faster_rcnn,resnet50,dir-coco-1x,coco-val,a = ,,36.4,", "Invalid value"),
        ("x:t,a,faster_rcnn,resnet50,dir-coco-1x,coco-val,,36.4,", "cells"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(HEADER + line + "\n")
    with pytest.raises(PublishedError, match=rf"bad\.csv:2: .*{message}"):
        read_table(path, "x:t")


def test_columns_and_labels_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(HEADER.replace("AP", "mAP"))
    with pytest.raises(PublishedError, match="expected the columns"):
        read_table(path, "x:t")
    line = "x:t,{},faster_rcnn,resnet50,dir-coco-1x,coco-val,,,36.4,\n"
    path.write_text(HEADER + line.format("a") + line.format("A"))
    with pytest.raises(PublishedError, match="same label"):
        read_table(path, "x:t")


def test_settings_nest_and_merge() -> None:
    one = parse_settings("a.b = 1; a.c.d = 'x'")
    assert one == {"a": {"b": 1, "c": {"d": "x"}}}
    assert parse_settings("") == {}
    assert merged(one, {"a": {"c": {"d": "y"}}, "e": 2}) == {"a": {"b": 1, "c": {"d": "y"}}, "e": 2}
    assert one["a"]["c"]["d"] == "x"


def test_the_shipped_overrides_fit_every_kind_of_row() -> None:
    small = tomllib.loads((FOLDER / "small.toml").read_text())
    for published in all_rows():
        if missing(published) is None:
            recipe = recipe_for(published, small)
            assert (recipe.resize.short_side, recipe.augment.scales) == (128, ())
            assert recipe.detector_config(3).head.width == 64
