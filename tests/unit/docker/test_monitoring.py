"""The dashboard and the alerts ask for metrics, labels and values that a running server really shows."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from docker.grafana import dashboard
from tests.server_process import TILES, ServerProcess, serving, wait_until

ROOT = Path(__file__).parents[3]
ALERTS = yaml.safe_load((ROOT / "docker/prometheus/alerts.yaml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads(dashboard.PATH.read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# Metrics of ours that neither a panel nor an alert needs: name them here on purpose.
LEFT_OUT: set[str] = set()
FROM_PROMETHEUS = {"instance", "job"}  # labels that it adds to everything it reads

Series = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Series]:
    """Every sample of /metrics of a server that has seen traffic, a drop and a lost worker."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, "--backend", "sleep:1", restart_delay=3) as server:
        with_image(server, "/detect", {"Content-Type": "image/jpeg"}, TILES)
        rescored = server.client.post("/rescore", files={"image": TILES}, data={"boxes": "[[0,0,9,9]]"})
        assert rescored.status_code == 200, rescored.text
        assert server.client.get("/nowhere").status_code == 404
        os.kill(server.worker_pid(), signal.SIGKILL)
        wait_until(lambda: server.client.get("/readyz").status_code == 503, "the loss being noticed")
        refused = server.client.post("/detect", content=TILES, headers={"Content-Type": "image/jpeg"})
        assert refused.status_code == 503
        wait_until(lambda: server.client.get("/readyz").status_code == 200, "another worker")
        found: Series = {}
        for family in text_string_to_metric_families(server.client.get("/metrics").text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(dict(sample.labels))
    yield found


def with_image(server: ServerProcess, path: str, headers: dict[str, str], body: bytes) -> None:
    answer = server.client.post(path, content=body, headers=headers)
    assert answer.status_code == 200, answer.text


def expressions() -> Iterator[tuple[str, str, set[str]]]:
    """Where, the PromQL with Grafana's variables filled in, and the labels that its legend or text names."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    for rule in RULES:
        text = json.dumps(rule["annotations"])
        yield rule["alert"], rule["expr"], set(re.findall(r"\$labels\.(\w+)", text))


EXPRESSIONS = list(expressions())


def parsed(expression: str) -> promql.Expr:
    filled = expression.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$model", ".*")
    assert "$" not in filled
    return promql.parse(filled)


def selectors(expression: str) -> list[promql.VectorSelector]:
    found: list[promql.VectorSelector] = []

    def visit(node: promql.Expr) -> None:
        if isinstance(node, promql.MatrixSelector):
            found.append(node.vector_selector)
        elif isinstance(node, promql.VectorSelector):
            found.append(node)

    promql.walk(parsed(expression), visit)
    return found


def grouped(expression: str) -> set[str]:
    """Every label after `by`."""
    found: set[str] = set()

    def visit(node: promql.Expr) -> None:
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            found.update(node.modifier.labels)

    promql.walk(parsed(expression), visit)
    return found


def test_the_walk_sees_every_part_of_an_expression() -> None:
    expression = 'sum by (a, le) (rate(one{x="1"}[5m])) / (two or 0 * max by (b) (three))'
    assert {each.name for each in selectors(expression)} == {"one", "two", "three"}
    assert grouped(expression) == {"a", "le", "b"}


@pytest.mark.parametrize(("where", "expression", "named"), EXPRESSIONS, ids=[each[0] for each in EXPRESSIONS])
def test_a_running_server_shows_what_is_asked_for(
    live: Series, where: str, expression: str, named: set[str]
) -> None:
    labels: set[str] = set()
    for selector in selectors(expression):
        assert selector.name is not None
        if selector.name == "up":  # Prometheus' own
            labels |= FROM_PROMETHEUS
            continue
        assert selector.name in live, f"{where}: /metrics has no {selector.name}"
        labels |= {label for sample in live[selector.name] for label in sample} | FROM_PROMETHEUS
        for matcher in selector.matchers.matchers:
            if matcher.name in FROM_PROMETHEUS:
                continue
            values = {sample.get(matcher.name) for sample in live[selector.name]}
            assert None not in values, f"{where}: {selector.name} has no label {matcher.name}"
            if matcher.op == promql.MatchOp.Equal:
                assert matcher.value in values, f"{where}: {matcher.name} is never {matcher.value!r}"
            if matcher.op == promql.MatchOp.Re and matcher.name == "route":
                assert set(matcher.value.split("|")) <= values
    assert grouped(expression) <= labels, where
    assert named <= (grouped(expression) or labels), (
        f"{where}: its legend or text names a label that is summed away"
    )


def test_the_variables_ask_for_labels_that_exist(live: Series) -> None:
    asked = [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    for query in asked:
        match = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
        assert match
        assert match[1] in live
        assert match[2] in FROM_PROMETHEUS or all(match[2] in sample for sample in live[match[1]])


def test_every_metric_of_the_server_is_drawn_or_left_out_on_purpose(live: Series) -> None:
    drawn = {selector.name for _, expression, _ in EXPRESSIONS for selector in selectors(expression)}
    kept = {name for name in live if not name.endswith(("_created", "_bucket", "_sum", "_count"))}
    histograms = {name.removesuffix("_bucket") for name in live if name.endswith("_bucket")}
    left_out = kept - drawn | {
        name for name in histograms if not any(str(each).startswith(name) for each in drawn)
    }
    # Those of the process and of Python (process_*, python_*) have dashboards of their own.
    assert {name for name in left_out if name.startswith("hindsight_")} == LEFT_OUT


def test_the_file_is_what_the_script_writes() -> None:
    assert dashboard.PATH.read_text() == dashboard.text(), "run: python -m docker.grafana.dashboard"


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own
    assert all(a["title"] != b["title"] for a, b in combinations(PANELS, 2))


def test_everything_asks_the_chosen_data_source() -> None:
    sources: list[Any] = [panel["datasource"] for panel in PANELS]
    sources += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    sources += [each["datasource"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    provisioned = yaml.safe_load(
        (ROOT / "docker/grafana/provisioning/datasources/prometheus.yaml").read_text()
    )
    assert [each["type"] for each in provisioned["datasources"]] == ["prometheus"]


def test_alerts_say_how_bad_and_what() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_prometheus_reads_the_server_that_compose_starts() -> None:
    scrape = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yaml").read_text())
    (ours,) = [job for job in scrape["scrape_configs"] if job["job_name"] == "hindsight"]
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    for name in ("hindsight", "hindsight-gpu"):
        (alias,) = compose["services"][name]["networks"]["default"]["aliases"]
        assert ours["static_configs"] == [{"targets": [f"{alias}:8000"]}]
    assert scrape["rule_files"] == ["/etc/prometheus/alerts.yaml"]
