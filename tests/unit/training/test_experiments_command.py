"""The claims from end to end at toy width: training, heads, tables, verdicts, files; nothing done twice."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from tests.recipes import Section, tiny_recipe
from tests.unit.training.data_sets import voc_object
from training.experiments.claims import CLAIMS
from training.experiments.command import experiments

SMALL: dict[str, Section] = {
    "backbone": {"fpn_channels": 16, "frozen_levels": 0},
    "rpn": {
        "anchor_sizes": [12, 24, 48, 96],
        "post_nms_train": 40,
        "pre_nms_test": 40,
        "post_nms_test": 30,
    },
    "head": {"width": 64, "batch_per_image": 32},
}
HEADS = """
model = "faster_rcnn_dir"
backbone = "test_efficientnet"
[detector.backbone]
min_level = 3
[detector.rpn]
anchor_sizes = [12, 24, 48, 96]
[detector.localization]
width = 16
[optimisation]
optimiser = "adamw"
lr = 0.003
batch_size = 4
epochs = 2
"""

IMAGES = {"train": 12, "val": 3, "test": 3}


def small(model: str, epochs: int, head: Section, localization: Section | None) -> str:
    detector = {**SMALL, "head": {**SMALL["head"], **head}, "localization": localization}
    optimisation = {
        "optimiser": "adamw",
        "lr": 0.01,
        "batch_size": 2,
        "epochs": epochs,
        "warmup_steps": 2,
        "schedule": "cosine",
    }
    return tiny_recipe(detector, optimisation, model=model, backbone="test_efficientnet")


def write_shapes(root: Path) -> Path:
    """A VOC folder of bright and dark rectangles on grey noise."""
    rng = np.random.default_rng(0)
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, count in IMAGES.items():
        names = [f"{split}{number}" for number in range(count)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            pixels = rng.integers(110, 140, (64, 64, 3), dtype=np.uint8)
            objects = []
            for kind, colour, left in (("bright", 250, 2), ("dark", 5, 34)):
                x1, y1 = left + int(rng.integers(0, 8)), int(rng.integers(2, 30))
                x2, y2 = x1 + int(rng.integers(14, 20)), y1 + int(rng.integers(14, 30))
                pixels[y1:y2, x1:x2] = colour
                objects.append(voc_object(kind, x1 + 1, y1 + 1, x2, y2))
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.png")
            size = "<size><width>64</width><height>64</height><depth>3</depth></size>"
            text = f"<annotation><filename>{name}.png</filename>{size}{''.join(objects)}</annotation>"
            (root / "Annotations" / f"{name}.xml").write_text(text)
    return root


class Place:
    """A folder with data and recipes, and the command on them."""

    def __init__(self, root: Path) -> None:
        self.root, self.results, self.out = root, root / "results", root / "out"
        write_shapes(root / "shapes")
        (root / "host.toml").write_text(small("faster_rcnn", 14, {"class_specific_first": False}, None))
        detectors = small("decoupled_rcnn_dir", 1, {"regression_batch_per_image": 32}, {})
        (root / "base.toml").write_text(detectors)
        (root / "heads.toml").write_text(HEADS)

    def run(self, claim: str, *more: str, recipe: str = "host.toml", quiet: bool = True) -> Any:
        app = typer.Typer()
        app.command()(experiments)
        options = {
            "--data": self.root / "shapes",
            "--out": self.out,
            "--results": self.results,
            "--recipe": self.root / recipe,
            "--heads": self.root / "heads.toml",
            "--weights": "none",
            "--resamples": 100,
            "--workers": 0,
        }
        pairs = [str(part) for pair in options.items() for part in pair]
        return CliRunner().invoke(app, [claim, *pairs, *["--quiet"][:quiet], *more], catch_exceptions=False)

    def result(self, claim: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.results / claim / "shapes.json").read_text())
        return loaded


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The pilot and every claim for the CPU have run."""
    made = Place(tmp_path_factory.mktemp("claims"))
    piloted = made.run("pilot")
    assert piloted.exit_code == 0, piloted.stderr
    for claim in CLAIMS:
        if not claim.needs_gpu:
            done = made.run(claim.name)
            assert done.exit_code == 0, done.stderr
            assert all(comparison.id in done.stdout for comparison in claim.comparisons)
    return made


def test_the_pilot_keeps_half_widths_and_no_difference(place: Place) -> None:
    kept = json.loads((place.results / "pilot" / "shapes.json").read_text())
    assert set(kept) == {"data", "resamples", "epochs", "half_widths"}
    assert kept["epochs"] == {"host": 4, "heads": 1}
    piloted = [c.id for claim in CLAIMS if claim.kind == "table" for c in claim.comparisons]
    assert list(kept["half_widths"]) == piloted
    widths = [width for metrics in kept["half_widths"].values() for width in metrics.values()]
    assert all(width is None or width > 0 for width in widths)
    assert (place.out / "pilot" / "seed0" / "table.npz").is_file()


@pytest.mark.parametrize("claim", [c for c in CLAIMS if not c.needs_gpu], ids=lambda c: c.name)
def test_every_claim_leaves_json_csv_and_figures(place: Place, claim: Any) -> None:
    result = place.result(claim.name)
    expected = [(c.id, metric) for c in claim.comparisons for metric in c.expected]
    assert [(row["comparison"], row["metric"]) for row in result["comparisons"]] == expected
    assert result["seeds"] == [0, 1] and result["images"]["test"] == 6
    for row in result["comparisons"]:
        assert len(row["per_seed"]) == 2
        if row["low"] is not None:
            assert row["low"] <= row["high"]
            pilot, dropped = row["pilot_half_width"], row["verdict"] == "dropped"
            assert dropped == (None not in (pilot, row["expected"]) and row["expected"] < pilot)
            if not dropped:
                spans = row["low"] <= 0 <= row["high"]
                assert row["verdict"] == (
                    "inconclusive" if spans else "supported" if row["low"] > 0 else "contradicted"
                )
    with (place.results / claim.name / "shapes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["comparison"], row["metric"]) for row in rows] == expected
    assert {"verdict", "difference_seed0", "difference_seed1"} <= set(rows[0])
    for figure in (place.results / claim.name).glob("*.png"):
        with Image.open(figure) as drawn:
            assert drawn.width > 400 and np.ptp(np.asarray(drawn.convert("L"))) > 100
    count = len(list((place.results / claim.name).glob("*.png")))
    assert count == (2 if claim.name in ("correlation", "regression") else 1)


def test_the_rows_have_something_to_say(place: Place) -> None:
    """The toy host finds some of the objects: otherwise nothing above was measured."""
    pearson = place.result("correlation")["systems"]["Pearson"]
    assert all(system["value"] is not None for system in pearson.values())
    ap = {name: system["value"] for name, system in place.result("ranking")["systems"]["AP"].items()}
    assert all(value > 0.02 for value in ap.values()) and len(set(ap.values())) > 1
    moved = place.result("regression")["systems"]["mean change of IoU"]
    assert moved["same proposals, last epoch"]["value"] != moved["same proposals, first epoch"]["value"]


def test_the_page_and_the_claims_agree_on_one_system(place: Place) -> None:
    """Eq. (5), "box / box" and hindsight P&I are three names of one system in three claims."""
    values = [
        place.result(claim)["systems"]["AP"][name]["value"]
        for claim, name in (
            ("ranking", "hindsight P&I"),
            ("combination", "Eq. (5)"),
            ("features", "box / box"),
        )
    ]
    assert values[0] == values[1] == values[2]


def test_what_is_finished_is_not_run_again(place: Place) -> None:
    kept = {path: os.stat(path).st_mtime_ns for path in sorted((place.out / "samples").iterdir())}
    kept |= {path: os.stat(path).st_mtime_ns for path in place.out.glob("seed*/table.npz")}
    before = place.result("ranking")
    again = place.run("ranking", quiet=False)
    assert again.exit_code == 0 and "seed 1: fitting the heads" in again.stderr
    assert {path: os.stat(path).st_mtime_ns for path in kept} == kept and len(kept) > 10
    assert place.result("ranking") == before


def test_what_the_pilot_could_not_tell_apart_is_dropped_by_name(place: Place, tmp_path: Path) -> None:
    widths = {
        c: {"Pearson": width}
        for c, width in zip(("1a", "1b", "1c", "1d", "1e"), (0.4, 0.2, 9, 0.009, None), strict=True)
    }
    (tmp_path / "pilot").mkdir()
    (tmp_path / "pilot" / "shapes.json").write_text(json.dumps({"half_widths": widths}))
    done = place.run("correlation", "--results", str(tmp_path))
    assert done.exit_code == 0, done.stderr
    rows = json.loads((tmp_path / "correlation" / "shapes.json").read_text())["comparisons"]
    assert [row["comparison"] for row in rows if row["verdict"] == "dropped"] == ["1b"]
    assert [row["pilot_half_width"] for row in rows] == [0.4, 0.2, 9, 0.009, None]
    assert "dropped" in done.stdout


def test_other_settings_in_the_same_folder_are_refused(place: Place) -> None:
    told = place.run("ranking", "--epochs", "3")
    assert told.exit_code == 2 and "can't resume: recipe was" in told.stderr


def test_claims_five_and_six_run_where_they_are_let(place: Place) -> None:
    for claim in ("decoupled", "both"):
        done = place.run(claim, "--on-cpu", "--no-pilot", "--seeds", "0", "--epochs", "1", recipe="base.toml")
        assert done.exit_code == 0, done.stderr
        rows = place.result(claim)["comparisons"]
        assert all(row["verdict"] in ("supported", "contradicted", "inconclusive") for row in rows)
    trained = sorted(path.name for path in (place.out / "detectors" / "seed0").iterdir())
    assert trained == ["nms-70", "nms-85", "shared-fc", "three-stages", "with-dir", "without-dir"]


@pytest.mark.parametrize(
    ("claim", "more", "said"),
    [
        ("rankings", (), "no claim 'rankings': did you mean 'ranking'?"),
        ("decoupled", (), "claims 5 and 6 need a GPU"),
        ("ranking", ("--name", "other"), "no half-widths of 2a, 2b, 2c, 2d, 2e, 2f in "),
        ("ranking", ("--seeds", "0,0"), "--seeds must be different whole numbers"),
        ("ranking", ("--test-split", "train"), "12 of the 12 test images are trained on"),
        ("ranking", ("--split", ","), "--split and --test-split name VOC lists"),
        ("pilot", ("--claims", "both,ranking"), "pilot them apart"),
        ("ranking", ("--heads", "none.toml"), "no recipe 'none.toml'"),
        ("ranking", ("--data", "nowhere"), "no such file or folder"),
        ("ranking", ("--recipe", "base.toml", "--no-pilot"), "it must have none"),
    ],
)
def test_bad_input_is_one_line_and_status_two(
    place: Place, claim: str, more: tuple[str, ...], said: str
) -> None:
    given = [str(place.root / part) if part == "base.toml" else part for part in more]
    told = place.run(claim, *given)
    assert told.exit_code == 2
    last = told.stderr.splitlines()[-1]
    assert last.startswith("hindsight: ") and said in last
    assert "Traceback" not in told.stderr
