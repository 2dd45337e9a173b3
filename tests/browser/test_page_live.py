"""The panel of live figures: what it makes of /metrics, and when it asks for them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

from service.keys import create_key
from tests.browser.browsing import OpenPage, Watch, running_server, sample, wait_for_count
from tests.browser.modules import Modules, open_modules
from tests.factories import make_tiny_artifact


@pytest.fixture(scope="module")
def modules(browser: Browser, server: str) -> Iterator[Modules]:
    with open_modules(browser, server) as found:
        yield found


def open_panel(page: Page) -> None:
    page.get_by_text("Live figures", exact=True).click()


def figure(page: Page, name: str) -> float:
    text = page.locator(f'[data-figure="{name}"]').inner_text()
    return float(text) if re.fullmatch(r"[\d.]+", text) else 0.0


# The parser -------------------------------------------------------------------------------------------------

AS_LISTS = """[...module.parseMetrics(value)].map(([name, series]) =>
    [name, series.map(({ labels, value: number }) => [Object.fromEntries(labels), String(number)])])"""


def test_the_text_format_is_read_as_prometheus_writes_it(modules: Modules) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("odd_value", "A\nhelp", ["name"], registry=registry)
    names = ['quo"te', "back\\slash", "new\nline", "{a=b}, c", "ümlaut", ""]
    for index, name in enumerate(names):
        gauge.labels(name).set(index + 0.5)
    histogram = Histogram("took_seconds", "Help", buckets=(0.1, 1), registry=registry)
    for value in (0.05, 0.5, 7):
        histogram.observe(value)
    families = dict(modules.call("prometheus", AS_LISTS, generate_latest(registry).decode()))
    assert {labels["name"]: float(value) for labels, value in families["odd_value"]} == {
        name: index + 0.5 for index, name in enumerate(names)
    }
    assert families["took_seconds_bucket"] == [
        [{"le": "0.1"}, "1"],
        [{"le": "1.0"}, "2"],
        [{"le": "+Inf"}, "3"],
    ]
    assert families["took_seconds_sum"] == [[{}, "7.55"]]
    odd = 'a 1e3 1700000000000\nb +Inf\nc -Inf\nd NaN\n\n# TYPE e counter\ne{x="1",} 2\n'
    found = dict(modules.call("prometheus", AS_LISTS, odd))
    assert [found[name][0][1] for name in "abcde"] == ["1000", "Infinity", "-Infinity", "NaN", "2"]


@pytest.mark.parametrize("text", ["<html>Please log in</html>", '{"a": 1}', 'a{b="c} 1', "a{b} 1", "a"])
def test_what_is_no_such_text_is_refused(modules: Modules, text: str) -> None:
    code = (
        "(() => { try { module.parseMetrics(value); return null; } catch (error) { return error.name; } })()"
    )
    assert modules.call("prometheus", code, text) == "SyntaxError"


def exposition(scale: float, *, started: float = 1000.0, models: tuple[str, ...] = ("cells", "pcb")) -> str:
    """Counters at `scale` times a unit of traffic."""
    lines = [f"process_start_time_seconds {started}", 'hindsight_build_info{python="3",version="1.2"} 1.0']
    lines += [f'hindsight_worker_ready{{device="{device}"}} 1.0' for device in ("cpu:0", "cpu:1")]
    for route, method, status, count in (
        ("/detect", "POST", 200, 8),
        ("/rescore", "POST", 200, 2),
        ("/detect", "POST", 503, 1),
        ("/metrics", "GET", 200, 50),
    ):
        labels = f'route="{route}",method="{method}",status="{status}"'
        lines.append(f"hindsight_requests_total{{{labels}}} {count * scale}")
    for index, model in enumerate(models):
        lines.append(f'hindsight_queue_depth{{model="{model}"}} {index + 1}')
        lines.append(f'hindsight_images_total{{model="{model}",operation="detect"}} {6 * scale}')
        lines.append(f'hindsight_images_total{{model="{model}",operation="rescore"}} {2 * scale}')
        for device, count in (("cpu:0", 2), ("cpu:1", 1)):
            labels = f'model="{model}",device="{device}"'
            lines.append(f"hindsight_batch_size_sum{{{labels}}} {4 * scale}")
            lines.append(f"hindsight_batch_size_count{{{labels}}} {count * scale}")
        labels = f'model="{model}",stage="model"'
        lines.append(f"hindsight_stage_seconds_sum{{{labels}}} {0.2 * scale}")
        lines.append(f"hindsight_stage_seconds_count{{{labels}}} {8 * scale}")
        for bound, count in (("0.01", 0), ("0.02", 4), ("0.04", 8), ("+Inf", 8)):
            lines.append(f'hindsight_stage_seconds_bucket{{{labels},le="{bound}"}} {count * scale}')
    return "\n".join(lines) + "\n"


RATES = """(() => {
    const [before, after] = value
        .map((text, index) => module.lookAt(module.parseMetrics(text), 1000 + 2000 * index));
    return { restarted: module.restarted(before, after), ...module.ratesOf(before, after) };
})()"""


def test_two_looks_give_rates(modules: Modules) -> None:
    found = modules.call("prometheus", RATES, [exposition(1), exposition(3)])
    assert not found["restarted"]
    # 2 s apart, two units of traffic: POSTs only, whatever else reads this server.
    assert (found["requests"], found["refused"]) == (pytest.approx(11), pytest.approx(1))
    assert (found["images"], found["waiting"]) == (pytest.approx(16), 3)
    assert found["batch"] == pytest.approx(8 / 3)
    cells, pcb = found["models"]
    assert (cells["name"], cells["images"], cells["waiting"]) == ("cells", pytest.approx(8), 1)
    assert pcb["waiting"] == 2
    [stage] = cells["stages"]
    assert stage == {"stage": "model", "mean": pytest.approx(0.025), "most": pytest.approx(0.038)}
    idle = modules.call("prometheus", RATES, [exposition(1), exposition(1)])
    assert (idle["requests"], idle["batch"], idle["models"][0]["stages"]) == (0, None, [])


def test_a_restart_is_noticed(modules: Modules) -> None:
    assert modules.call("prometheus", RATES, [exposition(5), exposition(6, started=2000)])["restarted"]
    assert modules.call("prometheus", RATES, [exposition(5), exposition(1)])["restarted"]
    assert modules.call("prometheus", RATES, [exposition(5), exposition(9, models=("cells",))])["restarted"]
    more = [exposition(1, models=("cells",)), exposition(1, models=("cells", "pcb"))]
    assert not modules.call("prometheus", RATES, more)["restarted"]  # a model was loaded


def test_quantiles_are_promqls(modules: Modules) -> None:
    def quantile(share: float, buckets: list[tuple[float, float]]) -> float | None:
        code = "module.quantile(value[0], value[1].map(([bound, count]) => [bound ?? Infinity, count]))"
        return modules.call(
            "prometheus", code, [share, [[None if b == float("inf") else b, c] for b, c in buckets]]
        )

    buckets = [(0.1, 10.0), (0.2, 20.0), (1.0, 20.0), (float("inf"), 20.0)]
    assert quantile(0.25, buckets) == pytest.approx(0.05)
    assert quantile(0.95, buckets) == pytest.approx(0.19)
    assert quantile(0.5, [(0.1, 0.0), (float("inf"), 4.0)]) == 0.1
    assert quantile(0.5, [(0.1, 0.0), (float("inf"), 0.0)]) is None
    assert quantile(0.5, []) is None


# The panel --------------------------------------------------------------------------------------------------


def test_live_figures_follow_the_traffic(page: Page, server: str) -> None:
    open_panel(page)
    expect(page.locator("#server-state")).to_contain_text("1 of 1 workers ready")
    image, deadline = sample(server), time.monotonic() + 60
    seen: set[str] = set()
    while time.monotonic() < deadline and len(seen) < 4:
        for model in ("tiny", "plain"):
            httpx.post(f"{server}detect", params={"model": model}, content=image).raise_for_status()
        page.wait_for_timeout(100)
        if figure(page, "requests") > 0 and figure(page, "images") > 0 and figure(page, "batch") >= 1:
            seen.add("rates")
        for model in ("tiny", "plain"):
            if page.locator(f'table[data-model="{model}"] [data-stage="model"]').count():
                seen.add(model)
        if page.locator(".figures polyline").first.get_attribute("points"):
            seen.add("spark")
    assert seen == {"rates", "tiny", "plain", "spark"}
    table = page.locator('table[data-model="tiny"]')
    expect(table.locator("caption")).to_contain_text(
        re.compile(r"tiny: [\d.]+ images/s, \d+ waiting, mean batch")
    )


def asked_in(page: Page, milliseconds: int) -> int:
    count = 0

    def seen(request: object) -> None:
        nonlocal count
        count += "/metrics" in request.url  # type: ignore[attr-defined]

    page.on("request", seen)
    page.wait_for_timeout(milliseconds)
    page.remove_listener("request", seen)
    return count


HIDE = """(hidden) => {
    const value = hidden ? "hidden" : "visible";
    Object.defineProperty(document, "visibilityState", { value, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_it_asks_only_while_open_and_seen(page: Page) -> None:
    assert asked_in(page, 2500) == 0
    open_panel(page)
    expect(page.locator("#server-state")).to_contain_text("workers ready")
    assert 1 <= asked_in(page, 5000) <= 4
    page.evaluate(HIDE, True)
    page.wait_for_timeout(300)
    assert asked_in(page, 5000) == 0
    page.evaluate(HIDE, False)
    assert asked_in(page, 5000) >= 1
    open_panel(page)  # closes it
    page.wait_for_timeout(300)
    assert asked_in(page, 5000) == 0


def test_a_lost_and_restarted_server(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    open_panel(page)
    expect(page.locator("#server-state")).to_contain_text("workers ready")
    page.route("**/metrics", lambda route: route.abort())
    expect(page.locator("#server-state")).to_have_text("No answer from the server; trying again.")
    page.unroute("**/metrics")
    expect(page.locator("#server-state")).to_contain_text("workers ready")
    said: list[str] = []

    def note(text: str) -> None:
        said.append(text)

    page.expose_function("said", note)
    page.evaluate(
        """(() => {
            const state = document.getElementById("server-state");
            new MutationObserver(() => window.said(state.textContent)).observe(state, { childList: true });
        })()"""
    )
    page.route(
        "**/metrics", lambda route: route.fulfill(body=exposition(1, started=5), content_type="text/plain")
    )
    expect(page.locator("#server-state")).to_have_text("Hindsight 1.2, 2 of 2 workers ready")
    assert "The server has been restarted: measuring anew…" in said


def test_foreign_answers_are_said_and_never_shown_as_html(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    body = "<img src=x onerror=alert(1)>"
    page.route("**/metrics", lambda route: route.fulfill(body=body, content_type="text/plain"))
    open_panel(page)
    expect(page.locator("#server-state")).to_contain_text(
        f"The figures could not be read: not a line of Prometheus text: {body}"
    )
    assert page.locator("#server-panel img").count() == 0
    page.unroute("**/metrics")
    page.locator("#server-panel").get_by_role("button", name="Try again").click()
    expect(page.locator("#server-state")).to_contain_text("workers ready")


def opened(browser: Browser, address: str) -> tuple[Page, Watch]:
    page = browser.new_context().new_page()
    watch = Watch(address)
    watch.allow_failed_requests()
    watch.attach(page)
    page.goto(address)
    return page, watch


def test_figures_on_an_admin_port_are_said_to_be_elsewhere(browser: Browser, tmp_path: Path) -> None:
    tiny = make_tiny_artifact(tmp_path / "tiny")
    with running_server(
        tmp_path / "log", HINDSIGHT_MODEL=str(tiny.path), HINDSIGHT_ADMIN_PORT="0"
    ) as address:
        page, watch = opened(browser, address)
        open_panel(page)
        expect(page.locator("#server-state")).to_have_text(
            re.compile("This server has no figures on this port")
        )
        assert asked_in(page, 4500) == 0
        watch.check(page)
        page.context.close()


def test_a_server_with_keys_wants_one_for_metrics(browser: Browser, tmp_path: Path) -> None:
    tiny, file = make_tiny_artifact(tmp_path / "tiny"), tmp_path / "keys.jsonl"
    user, metrics = create_key(file, "person", "user"), create_key(file, "watcher", "metrics")
    settings = {"HINDSIGHT_MODEL": str(tiny.path), "HINDSIGHT_KEYS_FILE": str(file)}
    with running_server(tmp_path / "log", **settings) as address:
        page, watch = opened(browser, address)
        page.get_by_label("API key", exact=True).fill(user)
        page.get_by_role("button", name="Use this key").click()
        wait_for_count(page, 2, 2)
        open_panel(page)
        expect(page.locator("#server-state")).to_contain_text("Your key may not read the figures")
        page.get_by_label("Metrics key").fill(metrics)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#server-state")).to_contain_text("1 of 1 workers ready")
        expect(page.get_by_label("Metrics key")).to_be_hidden()
        assert metrics not in page.evaluate(
            "JSON.stringify({...sessionStorage, ...localStorage}) + document.cookie"
        )
        page.reload()  # the key for images is still the user's
        wait_for_count(page, 2, 2)
        watch.check(page)
        page.context.close()
