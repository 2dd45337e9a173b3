"""Every place that counts something names the labels that the metric has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from service.metrics import Metrics, method_label

SERVICE = Path(__file__).parents[3] / "service"


def label_calls() -> Iterator[tuple[str, str, int]]:
    """Where, metric and number of labels of each `metrics.NAME.labels(...)` in the service."""
    for path in sorted(SERVICE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "labels"
                and isinstance(node.func.value, ast.Attribute)
                and ast.unparse(node.func.value.value).endswith("metrics")
            ):
                where = f"{path.relative_to(SERVICE)}:{node.lineno}"
                yield where, node.func.value.attr, len(node.args) + len(node.keywords)


def test_every_use_of_a_metric_names_all_its_labels() -> None:
    metrics = Metrics()
    calls = list(label_calls())
    assert len(calls) > 20
    wrong = [
        f"{where}: {name} takes {getattr(metrics, name)._labelnames}"
        for where, name, count in calls
        if len(getattr(metrics, name)._labelnames) != count
    ]
    assert not wrong


def test_the_method_is_one_of_a_few() -> None:
    assert [method_label(each) for each in ("GET", "POST", "PROPFIND", "x" * 99)] == [
        "GET",
        "POST",
        "other",
        "other",
    ]
