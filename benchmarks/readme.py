"""Writes the README's figures from benchmarks/results, so that none is typed by hand.

    python benchmarks/readme.py            rewrites the marked blocks of README.md
    python benchmarks/readme.py --check    fails if they are not what the results say

A block stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`. Accuracy comes from the reports of
`hindsight evaluate` at benchmarks/results/accuracy/VARIANT/seedN/metrics.json, latency from what
benchmarks/serving_latency.py wrote.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
VARIANTS = {
    "baseline": "Faster R-CNN, same backbone, train split",
    "flagship-train": "`cells` recipe, train split",
    "flagship": "**cells**: train and val splits",
}
PCB = {"pcb": "**pcb**"}
LATENCY = "serving-latency-{model}-onnxruntime.json"
STAGES = {
    "decode": "decode",
    "letterbox": "letterbox",
    "model": "model, NMS included",
    "nms_inside_model": "of which NMS",
    "encode": "JSON",
}
Reports = dict[str, list[dict[str, Any]]]  # variant -> the report of each seed


class MissingResult(Exception):
    """A result file that a block needs is not there, or lacks a number."""


def read_accuracy(variants: dict[str, str], results: Path = RESULTS) -> Reports:
    """Every variant's reports, by seed; only the last must have some, or MissingResult is raised."""
    reports: Reports = {}
    for variant in variants:
        files = sorted((results / "accuracy" / variant).glob("seed*/metrics.json"))
        if files:
            reports[variant] = [json.loads(file.read_text()) for file in files]
    shipped = list(variants)[-1]
    if shipped not in reports:
        raise MissingResult(f"no report at accuracy/{shipped}/seed*/metrics.json under benchmarks/results")
    return reports


def spread(values: list[float | None]) -> str:
    """The mean with the lowest and the highest: `.612 (.610-.614)`; one value alone as it is."""
    numbers = [value for value in values if value is not None]
    if len(numbers) != len(values) or not numbers:
        raise MissingResult("a report holds null where the README shows a number")
    mean = short(sum(numbers) / len(numbers))
    return mean if len(numbers) == 1 else f"{mean} ({short(min(numbers))}-{short(max(numbers))})"


def short(value: float) -> str:
    """Three decimals, without the zero before the point."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.3f}")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; every column but the first is aligned right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def accuracy(reports: Reports, variants: dict[str, str]) -> str:
    """AP of each variant, ranked with and without the predicted IoU where there is one."""
    rows = []
    for variant, seeds in reports.items():
        title = variants[variant]
        for weight in sorted(seeds[0]["by_iou_weight"], key=float):
            metrics = [report["by_iou_weight"][weight] for report in seeds]
            cells = [spread([m[name] for m in metrics]) for name in ("ap", "ap50", "ap75", "ap90")]
            rows.append([title, "-" if variant == "baseline" else weight, *cells])
    first = next(iter(reports.values()))[0]["metrics"]
    seeds_shown = ", ".join(f"{len(seeds)} for {variants[name]}" for name, seeds in reports.items())
    shown = table(["", "iou_weight", "AP", "AP50", "AP75", "AP90"], rows)
    return (
        f"{shown}\n\n{first['images']} test images, {first['objects']} objects; mean (lowest-highest) over "
        f"seeds: {seeds_shown}."
    )


def trust(model: str, seeds: list[dict[str, Any]]) -> str:
    """How far the predicted IoU tells the true one."""
    found = [report["localization"] for report in seeds]
    names = {
        "class score": "class_score_vs_true_iou",
        "predicted IoU": "predicted_iou_vs_true_iou",
        "reported score": "fused_score_vs_true_iou",
    }
    rows = [[title, spread([f["pearson"][name] for f in found])] for title, name in names.items()]
    error = spread([f["mean_absolute_error"]["iou"] for f in found])
    calibration = spread([f["calibration"]["expected_calibration_error"] for f in found])
    shown = table([f"`{model}`", "Pearson correlation with the true IoU"], rows)
    return (
        f"{shown}\n\nOver {found[0]['n']} {found[0]['population']}. Mean absolute error of the predicted "
        f"IoU: {error}; expected calibration error on what is reported: {calibration}."
    )


def latency(results: Path = RESULTS) -> str:
    """The time of one request, and where it goes. Raises MissingResult."""
    found = measured_latency("cells", results)
    times, hardware = found["milliseconds"], found["hardware"]
    sizes = " and ".join(found["photos"]["sizes"])
    rows = [[title, f"{times[stage]['mean']:.1f}"] for stage, title in STAGES.items()]
    named = sum(times[stage]["mean"] for stage in STAGES if stage != "nms_inside_model")
    rows.append(["HTTP, queue, transfer", f"{times['total']['mean'] - named:.1f}"])
    return (
        f"One photo of {sizes} over HTTP, photo in, JSON out, on {hardware['cores']} cores "
        f"({hardware['cpu']}): **p50 {times['total']['p50']:.0f} ms**, p95 {times['total']['p95']:.0f} ms, "
        f"over {found['photos']['sent']} requests, one at a time.\n\n" + table(["stage", "mean ms"], rows)
    )


def measured_latency(model: str, results: Path = RESULTS) -> dict[str, Any]:
    """What benchmarks/serving_latency.py wrote of a model. Raises MissingResult."""
    file = results / LATENCY.format(model=model)
    if not file.is_file():
        raise MissingResult(f"no {file.name} under benchmarks/results")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def pcb(results: Path = RESULTS) -> str:
    """All of the second model: AP, how far its IoU can be trusted, and its time in one line."""
    reports = read_accuracy(PCB, results)
    found = measured_latency("pcb", results)
    times, sizes = found["milliseconds"]["total"], " and ".join(found["photos"]["sizes"])
    return (
        f"{accuracy(reports, PCB)}\n\n{trust('pcb', reports['pcb'])}\n\n"
        f"One image of {sizes} over HTTP: p50 {times['p50']:.0f} ms, p95 {times['p95']:.0f} ms."
    )


def blocks(results: Path = RESULTS) -> dict[str, str]:
    """Every block's text by its name."""
    reports = read_accuracy(VARIANTS, results)
    return {
        "accuracy": accuracy(reports, VARIANTS),
        "trust": trust("cells", reports["flagship"]),
        "latency": latency(results),
        "pcb": pcb(results),
    }


def rewrite(text: str, contents: dict[str, str], page: str = "README.md") -> str:
    """`text` of `page` with every block replaced. Raises MissingResult if a block has no markers there."""
    for name, content in contents.items():
        begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
        count = text.count(begin)
        if count == 1:
            head, rest = text.split(begin)
            text = f"{head}{begin}{content}\n{end}{rest.partition(end)[2]}"
        if count != 1:
            raise MissingResult(f"{page} has {count} blocks named {name!r}, expected 1")
    return text


def keep_page(
    page: Path, contents: Callable[[], dict[str, str]], command: str, arguments: Sequence[str]
) -> int:
    """Rewrite the blocks of `page`; with --check among the arguments only compare. command: what rewrites it.

    0: it is up to date, or was rewritten; 1: it is not, or a result is missing.
    """
    before = page.read_text(encoding="utf-8")
    try:
        after = rewrite(before, contents(), page.name)
    except MissingResult as error:
        print(error, file=sys.stderr)
        return 1
    if "--check" not in arguments:
        page.write_text(after, encoding="utf-8")
        return 0
    if before != after:
        print(f"{page.name} is not what benchmarks/results say: run {command}", file=sys.stderr)
    return int(before != after)


if __name__ == "__main__":
    sys.exit(keep_page(ROOT / "README.md", blocks, "python benchmarks/readme.py", sys.argv[1:]))
