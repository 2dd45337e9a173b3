"""How opinions on own boxes are asked for, without a page around it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.modules import Modules, open_modules

ASKED = """(async () => {
    const asked = [];
    let answer;
    const opinions = new module.Opinions({
        ask: (image, boxes) => new Promise((resolve, reject) => {
            asked.push([image.id, boxes.length]);
            answer = { resolve: () => resolve(boxes.map(() => ({ iou: 0.5 }))), reject };
        }),
        changed() {},
    });
    const jobs = [
        { image: { id: 1 }, boxes: [[0, 0, 1, 1], [0, 0, 2, 2]] },
        { image: { id: 2 }, boxes: [[0, 0, 3, 3]] },
    ];
    const turn = (ms = 20) => new Promise((resolve) => { setTimeout(resolve, ms); });
    const each = jobs.flatMap(({ image, boxes }) => boxes.map((box) => [image.id, box]));
    const known = () => each.filter(([id, box]) => opinions.of("m", id, box)).length;
    opinions.refresh("m", jobs, 1, { soon: true });
    await turn();
    CODE
})()"""


@pytest.fixture(scope="module")
def modules(browser: Browser, server: str) -> Iterator[Modules]:
    with open_modules(browser, server) as found:
        yield found


def test_a_run_that_is_stopped_asks_no_more_and_keeps_nothing_late(modules: Modules) -> None:
    code = """answer.resolve();
    await turn();
    opinions.stop();
    answer.resolve();
    await turn();
    const stopped = [asked.length, known(), opinions.busy];
    opinions.refresh("m", jobs, 1, { soon: true });
    await turn();
    return [stopped, asked];"""
    stopped, asked = modules.call("opinions", ASKED.replace("CODE", code))
    assert stopped == [2, 1, False]
    assert asked == [[1, 1], [1, 1], [1, 1]]  # what was not kept is asked for again


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_said(modules: Modules, status: int) -> None:
    code = f"""answer.reject(Object.assign(new Error(), {{ status: {status}, retryAfter: 0.05 }}));
    await turn();
    const waited = opinions.waiting !== null;
    await turn(200);
    return [waited, asked.length, opinions.problem];"""
    assert modules.call("opinions", ASKED.replace("CODE", code)) == [True, 2, None]
