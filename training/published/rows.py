"""A published table as typed rows, read from its CSV file.

Columns: table, row (its label), model (a name of model/zoo.py; empty: another work's system, only quoted),
backbone, schedule (a recipe in training/recipes), data, training and inference (settings that differ from the
schedule's: TOML assignments with "; " between), the figures that the paper prints (empty: none), note.
Figures are in the papers' units: AP in percent, params in millions, GFLOPs as multiply-adds.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hindsight.errors import HindsightError

FOLDER = Path(__file__).parent
DATA_SETS = ("coco-val", "coco-test-dev", "voc07-test")
# What `hindsight reproduce` measures; speed and GFLOPs are shown as printed.
MEASURED = ("AP", "AP50", "AP60", "AP70", "AP75", "AP80", "AP90", "APs", "APm", "APl", "params", "pearson")
PRINTED_ONLY = ("FPS", "seconds", "GFLOPs")
_COLUMNS = ("table", "row", "model", "backbone", "schedule", "data", "training", "inference")
_NOTE = "note"
_THRESHOLDS = ("iou_weight", "class_threshold")


class PublishedError(HindsightError):
    """A table or a row that does not exist, or a file that does not say what it should."""


@dataclass(frozen=True)
class Inference:
    """What a row sets after training: rows that differ in this alone share a training run."""

    detector: Mapping[str, Any] = field(default_factory=dict)  # nested as in a recipe's [detector]
    iou_weight: float = 0.5  # w of class^(1-w) * IoU^w; without a localization head it means nothing
    class_threshold: float = 0.05


@dataclass(frozen=True)
class Row:
    """One line of a table. `model` is None where the paper quotes a system that is not built here."""

    table: str
    number: int  # from 1
    label: str
    model: str | None
    backbone: str
    schedule: str
    data: str
    training: Mapping[str, Any]  # nested as in a recipe
    inference: Inference
    expected: Mapping[str, float | None]  # the paper's figures by column; None: not printed
    note: str

    def __str__(self) -> str:
        return f"row {self.number} of {self.table} ({self.label})"


@dataclass(frozen=True)
class Table:
    """A table of a paper: "dir:table3", "drcnn:table9". `incomplete` is empty where nothing is missing."""

    id: str
    title: str
    incomplete: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def slug(self) -> str:
        """The id as a file name."""
        return slug(self.id)

    def choose(self, wanted: str | None) -> tuple[Row, ...]:
        """The rows of "1,3-4" or of labels with commas between, in the table's order; all for None.

        Raises PublishedError for a row that is not there.
        """
        if wanted is None:
            return self.rows
        chosen: set[int] = set()
        for part in filter(None, (p.strip() for p in wanted.split(","))):
            chosen |= self._numbers(part)
        if not chosen:
            raise PublishedError("--rows names no row")
        return tuple(row for row in self.rows if row.number in chosen)

    def _numbers(self, part: str) -> set[int]:
        by_label = {row.label.lower(): row.number for row in self.rows}
        if part.lower() in by_label:
            return {by_label[part.lower()]}
        first, _, last = (bound.strip() for bound in part.partition("-"))
        if first.isdigit() and (last or first).isdigit():
            numbers = set(range(int(first), int(last or first) + 1))
            if numbers and numbers <= {row.number for row in self.rows}:
                return numbers
        labels = ", ".join(f"{row.number} = {row.label}" for row in self.rows)
        raise PublishedError(f"{self.id} has no row {part!r}; it has {labels}")


def slug(table: str) -> str:
    """ "dir:table3" as a file name."""
    return table.replace(":", "-")


def known_tables() -> tuple[str, ...]:
    """Every table's id, in the papers' order."""
    return tuple(_about())


def load_table(table: str) -> Table:
    """The table of that id. Raises PublishedError, naming the known ones."""
    about = _about()
    if table not in about:
        raise PublishedError(f"unknown table {table!r}: known are {', '.join(about)}")
    return read_table(FOLDER / f"{slug(table)}.csv", table, **about[table])


def read_table(path: Path, table: str, title: str = "", incomplete: str = "") -> Table:
    """A table from its CSV file. Raises PublishedError naming file and line."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = tuple(reader.fieldnames or ())
        metrics = columns[len(_COLUMNS) : -1]
        unknown = [name for name in metrics if name not in (*MEASURED, *PRINTED_ONLY)]
        if columns[: len(_COLUMNS)] != _COLUMNS or columns[-1] != _NOTE or unknown or not metrics:
            expected = f"{', '.join(_COLUMNS)}, figures, {_NOTE}"
            raise PublishedError(f"{path.name}: expected the columns {expected}, got {', '.join(columns)}")
        rows = []
        for number, values in enumerate(reader, start=1):
            try:
                rows.append(_row(table, number, values, metrics))
            except (ValueError, TypeError, tomllib.TOMLDecodeError) as error:
                raise PublishedError(f"{path.name}:{reader.line_num}: {error}") from error
    labels = [row.label.lower() for row in rows]
    if len(set(labels)) < len(labels):
        raise PublishedError(f"{path.name}: two rows have the same label")
    return Table(table, title, incomplete, metrics, tuple(rows))


def _row(table: str, number: int, values: Mapping[str, str], metrics: Iterable[str]) -> Row:
    if None in values or None in values.values():  # csv's sign for more or fewer cells than columns
        raise ValueError(f"expected {len(_COLUMNS) + 1} cells and the figures")
    if values["table"] != table:
        raise ValueError(f"table is {values['table']!r}, expected {table!r}")
    label, model = values["row"], values["model"] or None
    if not label or "," in label:
        raise ValueError(f"the row's label must have no comma and not be empty, got {label!r}")
    if values["data"] not in DATA_SETS:
        raise ValueError(f"data must be one of {', '.join(DATA_SETS)}, got {values['data']!r}")
    settings = (values["schedule"], values["training"], values["inference"])
    if model is None and any(settings):
        raise ValueError("a row without a model has no schedule and no settings")
    if model is not None and not values["schedule"]:
        raise ValueError(f"{model} needs a schedule")
    return Row(
        table=table,
        number=number,
        label=label,
        model=model,
        backbone=values["backbone"],
        schedule=values["schedule"],
        data=values["data"],
        training=MappingProxyType(parse_settings(values["training"])),
        inference=_inference(parse_settings(values["inference"])),
        expected=MappingProxyType({name: _figure(name, values[name]) for name in metrics}),
        note=values[_NOTE],
    )


def parse_settings(text: str) -> dict[str, Any]:
    """ "a.b = 1; a.c = 'x'" -> {"a": {"b": 1, "c": "x"}}. Raises TOMLDecodeError."""
    return tomllib.loads("\n".join(part.strip() for part in text.split(";")))


def _inference(values: Mapping[str, Any]) -> Inference:
    for name in values:
        if name not in ("detector", *_THRESHOLDS):
            raise ValueError(f"inference can set detector.*, {', '.join(_THRESHOLDS)}, got {name!r}")
    thresholds = {name: values[name] for name in _THRESHOLDS if name in values}
    for name, value in thresholds.items():
        if type(value) is not float or not 0 <= value <= 1:
            raise ValueError(f"{name} must be a number in 0..1 with a decimal point, got {value!r}")
    return Inference(MappingProxyType(values.get("detector", {})), **thresholds)


def _figure(name: str, text: str) -> float | None:
    if not text:
        return None
    value = float(text)
    low, high = (-1.0, 1.0) if name == "pearson" else (0.0, 100.0 if name.startswith("AP") else math.inf)
    if not low <= value <= high or math.isinf(value):
        raise ValueError(f"{name} must lie in {low:g}..{high:g}, got {text}")
    return value


def _about() -> dict[str, dict[str, str]]:
    with (FOLDER / "tables.toml").open("rb") as file:
        return tomllib.load(file)
