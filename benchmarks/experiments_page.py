"""Writes the results on docs/experiments.md from benchmarks/results/claims, so that none is typed by hand.

    python -m benchmarks.experiments_page            rewrites the marked block of the page
    python -m benchmarks.experiments_page --check    fails if it is not what the results say

The results are those that `python -m training.experiments` wrote: CLAIM/DATA.json with its figures.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.readme import ROOT, MissingResult, keep_page, table
from training.experiments.claims import CLAIMS, Claim

PAGE = ROOT / "docs" / "experiments.md"
RESULTS = ROOT / "benchmarks" / "results" / "claims"
BLOCK = "results"
FIGURES = {"": "systems and differences", "-scatter": "confidence over true IoU", "-distribution": "by epoch"}
POINTS = ("AP", "AP75", "AP90")
Result = dict[str, Any]


def read_results(claim: Claim, results: Path = RESULTS) -> dict[str, Result]:
    """What a claim came to on each data set, by its name; empty where it was not run."""
    files = sorted((results / claim.name).glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def all_results(results: Path = RESULTS) -> str:
    """A section a claim. Raises MissingResult where two data sets were not asked the same."""
    return "\n\n".join(section(claim, read_results(claim, results)) for claim in CLAIMS)


def section(claim: Claim, found: dict[str, Result]) -> str:
    """Title, a table with a column a data set, how it was run, figures."""
    title = f"### Claim {claim.number}, `{claim.name}`: what came of it"
    if not found:
        return f"{title}\n\nNot run{' (needs a GPU)' if claim.needs_gpu else ''}."
    first = next(iter(found.values()))["comparisons"]
    asked = [(row["comparison"], row["metric"]) for row in first]
    of_data = (cell for name in found for cell in (f"{name}: difference", name))
    rows = []
    for index, (comparison, metric) in enumerate(asked):
        own = [result["comparisons"][index] for result in found.values()]
        if any((row["comparison"], row["metric"]) != (comparison, metric) for row in own):
            raise MissingResult(f"claim {claim.name} compares other things on {' and '.join(found)}")
        paper = "-" if own[0]["expected"] is None else number(own[0]["expected"], metric)
        said = f"{comparison} {own[0]['better']} > {own[0]['worse']}"
        rows.append([said, metric, paper, *(cell for row in own for cell in (change(row), named(row)))])
    shown = table([f"{claim.number}", "metric", "paper", *of_data], rows)
    runs = "\n".join(f"- {how_run(name, result)}" for name, result in found.items())
    return f"{title}\n\n{shown}\n\n{runs}\n\n{pictures(claim, found)}"


def change(row: Result) -> str:
    """The difference and its interval."""
    low, high = (number(row[end], row["metric"]) for end in ("low", "high"))
    return f"{number(row['difference'], row['metric'])} ({low} to {high})"


def named(row: Result) -> str:
    """The verdict; those that say something stand out."""
    verdict = str(row["verdict"])
    return f"**{verdict}**" if verdict in ("supported", "contradicted") else verdict


def number(value: float, metric: str) -> str:
    """AP in points with one decimal more than the papers print, others as they are."""
    return f"{100 * value:+.2f}" if metric in POINTS else f"{value:+.3f}"


def how_run(name: str, result: Result) -> str:
    """Images, seeds, hardware and commit of one run."""
    images, detector = result["images"], result["detector"]
    seeds = ", ".join(str(seed) for seed in result["seeds"])
    return (
        f"{name}: {images['test']} test images, seeds {seeds}; {detector['model']} on "
        f"{detector['backbone']}, {result['epochs']} epochs on {images['training']} images; "
        f"{result['hardware']}, commit {result['commit'][:12]}"
    )


def pictures(claim: Claim, found: dict[str, Result]) -> str:
    """Every figure there is."""
    lines = []
    for name in found:
        for ending, shows in FIGURES.items():
            file = RESULTS / claim.name / f"{name}{ending}.png"
            if file.is_file():
                lines.append(f"![{claim.title} {name}: {shows}](../{file.relative_to(ROOT).as_posix()})")
    return "\n\n".join(lines)


if __name__ == "__main__":
    sys.exit(
        keep_page(PAGE, lambda: {BLOCK: all_results()}, "python -m benchmarks.experiments_page", sys.argv[1:])
    )
