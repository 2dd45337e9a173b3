"""Writes docker/grafana/dashboards/hindsight.json: `python -m docker.grafana.dashboard`.

A panel is one row of ROWS. Names of metrics and labels are service/metrics.py's; a test holds each to what a
running server shows, and the file to this script.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["PATH", "dashboard", "text"]

PATH = Path(__file__).parent / "dashboards" / "hindsight.json"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24
_HERE = 'instance=~"$instance"'
_WINDOW = "[$__rate_interval]"

Kind = Literal["stat", "timeseries", "heatmap"]


@dataclass(frozen=True)
class Panel:
    """`queries`: (PromQL, legend). `unit`: Grafana's name. `width` of 24 columns. `bad`: red from this
    value on (below it, where `low_is_bad`).
    """

    title: str
    queries: Sequence[tuple[str, str]]
    about: str
    unit: str = "short"
    width: int = 8
    height: int = 8
    kind: Kind = "timeseries"
    stacked: bool = False
    bad: float | None = None
    low_is_bad: bool = False


def _rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{', '.join(filter(None, (_HERE, where)))}}}{_WINDOW}))"


def _mean(metric: str, by: str, where: str = "") -> str:
    return f"{_rate(metric + '_sum', by, where)} / {_rate(metric + '_count', by, where)}"


def _share(metric: str, where: str) -> str:
    """Of all; 0 where there are none of these yet."""
    every = f"sum(rate({metric}{{{_HERE}}}{_WINDOW}))"
    return f"sum(rate({metric}{{{_HERE}, {where}}}{_WINDOW})) / {every} or 0 * {every}"


def _quantile(q: float, metric: str, by: str, where: str = "") -> str:
    return f"histogram_quantile({q}, {_rate(metric + '_bucket', 'le, ' + by, where)})"


_ROUTE = 'route=~"/detect|/rescore"'
_MODEL = 'model=~"$model"'

ROWS: dict[str, list[Panel]] = {
    "Now": [
        Panel(
            "Workers ready",
            [(f"sum(hindsight_worker_ready{{{_HERE}}})", "")],
            "Devices whose worker can take images.",
            width=4,
            height=4,
            kind="stat",
            bad=1,
            low_is_bad=True,
        ),
        Panel(
            "Images a second",
            [(f"sum(rate(hindsight_images_total{{{_HERE}, {_MODEL}}}{_WINDOW}))", "")],
            "Answered.",
            width=4,
            height=4,
            kind="stat",
        ),
        Panel(
            "p95 of a request",
            [(_quantile(0.95, "hindsight_request_seconds", "route", _ROUTE), "{{route}}")],
            "First byte in to last byte out.",
            "s",
            width=4,
            height=4,
            kind="stat",
            bad=2,
        ),
        Panel(
            "Failures of the server's own",
            [(_share("hindsight_requests_total", 'status=~"5..", status!~"503|504"'), "")],
            "Share of answers with a status of 500 and more, without 503 and 504: those mean too much work.",
            "percentunit",
            width=4,
            height=4,
            kind="stat",
            bad=0.01,
        ),
        Panel(
            "Images waiting",
            [(f"sum(hindsight_queue_depth{{{_HERE}}})", "")],
            "Admitted and not yet running.",
            width=4,
            height=4,
            kind="stat",
        ),
        Panel(
            "Images dropped a second",
            [
                (
                    f'sum(rate(hindsight_drops_total{{{_HERE}, reason!~"disconnected|request_failed"}}'
                    f"{_WINDOW})) or 0 * sum(hindsight_worker_ready{{{_HERE}}})",
                    "",
                )
            ],
            "By the server. Those whose client had left are not counted.",
            width=4,
            height=4,
            kind="stat",
            bad=0.1,
        ),
    ],
    "Traffic": [
        Panel(
            "Requests by route and status",
            [(_rate("hindsight_requests_total", "route, method, status"), "{{method}} {{route}} {{status}}")],
            "All of them, probes included.",
            "reqps",
            width=12,
            stacked=True,
        ),
        Panel(
            "Images by model",
            [(_rate("hindsight_images_total", "model, operation", _MODEL), "{{model}} {{operation}}")],
            "Answered. One request may hold several.",
            width=6,
            stacked=True,
        ),
        Panel(
            "Drops by reason",
            [(_rate("hindsight_drops_total", "model, reason"), "{{model}} {{reason}}")],
            "queue_full, overload, deadline and memory: too much work. unavailable and worker_lost: no "
            "worker. disconnected: the client left first.",
            width=6,
            stacked=True,
        ),
    ],
    "Latency": [
        Panel(
            "Whole request",
            [
                (
                    _quantile(q, "hindsight_request_seconds", "route", _ROUTE),
                    f"{{{{route}}}} p{round(q * 100)}",
                )
                for q in (0.5, 0.95, 0.99)
            ],
            "First byte in to last byte out, refusals included.",
            "s",
            width=12,
        ),
        Panel(
            "Where an image's time goes",
            [(_mean("hindsight_stage_seconds", "stage", _MODEL), "{{stage}}")],
            "Mean of each stage, stacked: the height is an answered image's mean time, without HTTP.",
            "s",
            width=12,
            stacked=True,
        ),
        *(
            Panel(
                f"Stages, p{round(q * 100)}",
                [(_quantile(q, "hindsight_stage_seconds", "stage", _MODEL), "{{stage}}")],
                "One image in one stage. `model` is the time of the batch it was in.",
                "s",
            )
            for q in (0.5, 0.95, 0.99)
        ),
    ],
    "Queue, batches, workers": [
        Panel(
            "Queue depth",
            [(f"sum by (instance, model) (hindsight_queue_depth{{{_HERE}}})", "{{instance}} {{model}}")],
            "Images admitted and not yet running. Requests get 503 where these would take longer than "
            "max_queue_seconds, and at --max-queue in any case.",
        ),
        Panel(
            "Images in a batch, mean",
            [(_mean("hindsight_batch_size", "model, device"), "{{model}} {{device}}")],
            "1 while there is no queue: nothing waits for a batch to fill.",
        ),
        Panel(
            "Images in a batch",
            [(f"sum by (le) (increase(hindsight_batch_size_bucket{{{_HERE}}}{_WINDOW}))", "{{le}}")],
            "How many batches had how many images.",
            kind="heatmap",
        ),
        Panel(
            "Worker ready",
            [(f"hindsight_worker_ready{{{_HERE}}}", "{{instance}} {{device}}")],
            "1 while the device's worker can take images.",
        ),
        Panel(
            "Workers lost",
            [
                (
                    f"sum by (device, cause) (increase(hindsight_worker_restarts_total{{{_HERE}}}{_WINDOW}))",
                    "{{device}} {{cause}}",
                )
            ],
            "Each is started again. The very first of a cause is not drawn: "
            "Prometheus sees no increase in a new series.",
        ),
        Panel(
            "Engines busy",
            [(_rate("hindsight_engine_busy_seconds_total", "device, model"), "{{device}} {{model}}")],
            "Share of the time in which the device's worker has a batch. Near 1 more images only wait "
            "longer.",
            "percentunit",
            stacked=True,
            bad=0.9,
        ),
        Panel(
            "Wait of one more image",
            [(f"hindsight_queue_wait_seconds{{{_HERE}}}", "{{instance}}")],
            "By the measured service time.",
            "s",
        ),
        Panel(
            "Decoders busy",
            [
                (
                    f"hindsight_decode_threads_busy{{{_HERE}}} / hindsight_decode_threads{{{_HERE}}}",
                    "{{instance}}",
                )
            ],
            "Share of decode_threads. At 1 for long: more of them, or smaller photos.",
            "percentunit",
            bad=0.9,
        ),
        Panel(
            "Memory for images",
            [(f"hindsight_image_memory_bytes{{{_HERE}}}", "{{instance}}")],
            "Between decoding and the answer; at most max_decoded_bytes.",
            "bytes",
        ),
    ],
    "Connections and the server": [
        Panel(
            "In flight",
            [
                (f"hindsight_requests_in_flight{{{_HERE}}}", "{{instance}} requests"),
                (f"hindsight_connections{{{_HERE}}}", "{{instance}} connections"),
            ],
            "Requests begun and not yet answered, and connections open.",
        ),
        Panel(
            "Bodies",
            [
                (_rate("hindsight_request_body_bytes_sum", "route"), "{{route}} in"),
                (_rate("hindsight_response_body_bytes_sum", "route"), "{{route}} out"),
            ],
            "Bytes a second, without headers.",
            "Bps",
        ),
        Panel(
            "Version",
            [(f"sum by (instance, version) (hindsight_build_info{{{_HERE}}})", "{{instance}} {{version}}")],
            "What runs where.",
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """The document that Grafana loads."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": top, "w": _COLUMNS, "h": 1},
                "panels": [],
            }
        )
        top += 1
        left = 0
        for panel in row:
            if left + panel.width > _COLUMNS:
                left, top = 0, top + panel.height
            panels.append(_panel(panel, len(panels) + 1, left, top))
            left += panel.width
        top += row[-1].height
    return {
        "uid": "hindsight",
        "title": "Hindsight",
        "tags": ["hindsight"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    def labels(name: str, metric: str) -> dict[str, Any]:
        return {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": f"label_values({metric}, {name})", "refId": name},
            "definition": f"label_values({metric}, {name})",
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }

    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return [source, labels("instance", "hindsight_worker_ready"), labels("model", "hindsight_images_total")]


def _panel(panel: Panel, number: int, left: int, top: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad is not None:
        steps = [{"color": "red", "value": None}] if panel.low_is_bad else steps
        steps.append({"color": "green" if panel.low_is_bad else "red", "value": panel.bad})
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
                "format": "heatmap" if panel.kind == "heatmap" else "time_series",
                "range": True,
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


_OPTIONS: dict[Kind, dict[str, Any]] = {
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"},
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "yAxis": {"unit": "short"},
        "rowsFrame": {"layout": "le"},
    },
}


def text() -> str:
    """The file's whole content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(text())
