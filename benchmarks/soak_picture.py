"""The picture of a soak: latency and memory over its minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw_soak(result: dict[str, Any], path: Path) -> None:
    """Two panels over one axis of time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    minutes = [window["second"] / 60 for window in result["windows"]]
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(10, 6), layout="constrained")
    for name, colour in (("p99_ms", "#c62828"), ("p50_ms", "#2e7d32")):
        values = [window[name] for window in result["windows"]]
        above.plot(minutes, values, color=colour, marker="o", markersize=3, label=name.removesuffix("_ms"))
    above.set_ylabel("latency, ms")
    above.set_title(
        f"{result['rate']:.1f} requests a second for {result['minutes']:g} minutes; drift of p50 "
        f"{result['drift']['p50_ms']:+.1%}, of p99 {result['drift']['p99_ms']:+.1%}, of memory "
        f"{result['memory']['drift_mb']:+.0f} MB",
        fontsize=10,
    )
    above.set_ylim(bottom=0)
    above.legend(loc="lower right")
    series = result["memory"]["series"]
    below.plot([second / 60 for second, _ in series], [megabytes for _, megabytes in series], color="#3b6ea8")
    below.set_ylabel("memory of all processes, MB (PSS)")
    below.set_ylim(bottom=0)
    below.set_xlabel("minute")
    for panel in (above, below):
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
