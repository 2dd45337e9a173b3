"""Every system of the two papers, built, trained and exported: docs/systems.md and its figures.

    make systems                                     (python benchmarks/systems.py --photos COCO_JSON)

Writes benchmarks/results/systems.json after each system, and the page at the end. Rows that the file has for
this very code are not run again. tests/parity/test_systems.py runs some of the same trials.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from benchmarks.systems_list import SYSTEMS, System
from benchmarks.systems_trial import LEARNT, STEPS, four_photos, trial
from model.complexity import multiply_adds, parameters
from training.machine import origin
from training.published.rows import load_table

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "systems.json"
PAGE = ROOT / "docs" / "systems.md"
CLASSES = 80
_COLUMNS = (
    "system",
    "detector",
    "parameters",
    "the paper's, M",
    "multiply-adds, G",
    "the paper's",
    "loss",
    "AP50",
    "export",
)
TEST = "tests/parity/test_systems.py"


def main(
    photos: Annotated[Path, typer.Option(help="A COCO .json, such as coco_mini's instances_train2017.json.")],
    only: Annotated[str | None, typer.Option(help="Systems whose name holds this.")] = None,
) -> None:
    """Measure, write, and fail if a row is not green."""
    four = four_photos(photos)
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"systems": {}}
    code = code_hash()
    if result.get("code") != code:
        result = {"systems": {}, "code": code}
    # before the first write: the result file is part of the checkout
    made_with = origin("cpu", "torch", "onnx", "onnxruntime")
    chosen = [s for s in SYSTEMS if only is None or only in key(s)]
    for system in track([s for s in chosen if key(s) not in result["systems"]], description="systems"):
        result["systems"][key(system)] = measure(system, four)
        result |= made_with
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(page(result))
    typer.echo(f"wrote {RESULT.relative_to(ROOT)} and {PAGE.relative_to(ROOT)}")
    red = [name for name, row in result["systems"].items() if not is_green(row)]
    if red:
        typer.echo(f"not green: {', '.join(red)}", err=True)
        raise typer.Exit(1)


def key(system: System) -> str:
    """The row's name, unique."""
    return f"{system.group}: {system.label}"


def measure(system: System, photos: Any) -> dict[str, Any]:
    """One row."""
    config = system.config(CLASSES)
    started = time.monotonic()
    done = trial(system, photos)
    row: dict[str, Any] = {
        "model": system.model,
        "backbone": system.backbone,
        "settings": json.loads(json.dumps(system.settings, default=dict)),
        "parameters": parameters(config),
        "multiply_adds": multiply_adds(config),
        "first_loss": done.first_loss,
        "last_loss": done.last_loss,
        "ap50": done.ap50,
        "export": done.export,
        "seconds": round(time.monotonic() - started, 1),
    }
    if system.published is not None:
        table, label = system.published
        (published,) = (r for r in load_table(table).rows if r.label == label)
        row["published"] = {
            "table": table,
            "row": label,
            **{k: published.expected[k] for k in ("params", "GFLOPs")},
        }
    return row


def is_green(row: dict[str, Any]) -> bool:
    """Learnt, exported, and of the published size where there is one."""
    size = True
    if "published" in row:
        size = abs(row["parameters"] / 1e6 - row["published"]["params"]) < 0.0051
        size = size and abs(row["multiply_adds"] / 1e9 / row["published"]["GFLOPs"] - 1) < 0.005
    return bool(size and row["ap50"] >= LEARNT and row["export"] == "passed")


def page(result: dict[str, Any]) -> str:
    """docs/systems.md."""
    versions = result.get("versions", {})
    lines = [
        "# Every system of the two papers",
        "",
        "Written by `make systems`: do not edit.",
        "",
        "Sizes are those of the full detector with 80 classes, under the papers' convention: what is frozen",
        "is not counted. Multiply-adds are of convolutions and fully connected layers, for one image of",
        "1333 x 800 with 1000 proposals and DIR's second look at its default number of boxes.",
        "",
        f"At toy width each system trains {STEPS} steps on four photos of COCO and must reach AP50 {LEARNT}",
        "on them; then it is exported, which fails unless ONNX Runtime gives torch's detections.",
        f"Each row is a case, by its label, of `test_every_system_takes_steps` in `{TEST}`, which holds",
        "six of these trials whole.",
        "",
        "Two sizes are not those that DRCNN Table VIII quotes: DCNv2's, whose tool did not count deformable",
        "convolutions, and TSD's with ResNet-101, 98.86 M, where what TSD's own paper describes has 92.09 M.",
        "`tests/parity/test_published_sizes.py` has the details, and every other size that is printed.",
        "",
        f"{result.get('date')}, commit {result.get('commit', '')[:9]}, torch {versions.get('torch')},",
        f"ONNX Runtime {versions.get('onnxruntime')}.",
    ]
    groups: dict[str, list[System]] = {}
    for system in SYSTEMS:
        groups.setdefault(system.group, []).append(system)
    for group, systems in groups.items():
        lines += [
            "",
            f"## {group}",
            "",
            f"| {' | '.join(_COLUMNS)} |",
            f"| {' | '.join('---' for _ in _COLUMNS)} |",
        ]
        for system in systems:
            row = result["systems"].get(key(system))
            lines.append(_line(system, row))
    return "\n".join(lines) + "\n"


def _line(system: System, row: dict[str, Any] | None) -> str:
    name = f"`{system.model}`" + (f" {system.backbone}" if system.backbone != "resnet50" else "")
    if row is None:
        return f"| {system.label} | {name} | not run | | | | | | |"
    published = row.get("published", {})
    cells = [
        system.label,
        name,
        f"{row['parameters']:,}",
        str(published.get("params", "")),
        f"{row['multiply_adds'] / 1e9:.2f}",
        str(published.get("GFLOPs", "")),
        f"{row['first_loss']:.2f} to {row['last_loss']:.2f}",
        f"{row['ap50']:.3f}",
        row["export"],
    ]
    return f"| {' | '.join(cells)} |"


def code_hash() -> str:
    """Of all code that a row depends on."""
    digest = hashlib.sha256()
    for pattern in (
        "model/**/*.py",
        "export/**/*.py",
        "training/data/**/*.py",
        "hindsight/datasets/**/*.py",
        "benchmarks/systems*.py",
    ):
        for file in sorted(ROOT.glob(pattern)):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    typer.run(main)
