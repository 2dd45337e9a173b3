"""The picture says what was measured, whatever that was."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from PIL import Image

from hindsight.bench.charts import draw_histogram, save_picture
from hindsight.bench.load import Closed, Load
from hindsight.bench.samples import Sample, summarise
from hindsight.bench.session import Measured
from hindsight.errors import OptionError

BAR, RED = (0x4C, 0x78, 0xA8), (0xC6, 0x28, 0x28)
MODEL = {"decode": 3.0, "model": 70.0}


def picture(latencies: list[float], failures: int = 0, stages: dict[str, float] | None = None) -> Image.Image:
    samples = [
        Sample("detect", 0.01 * n, 0.01 * n, 0.01 * n + latency, "good", 200, 1, 1, stages or {})
        for n, latency in enumerate(latencies)
    ]
    samples += [Sample("detect", 1.0, 1.0, 3.0, "gave up")] * failures
    summary = summarise(samples, 60.0)
    return draw_histogram(Measured("m", Load(Closed(1)), summary, samples, 0, 0.1, True), "POST somewhere")


def pixels(drawn: Image.Image, colour: tuple[int, int, int]) -> int:
    return sum(count for count, found in drawn.getcolors(1 << 20) or [] if found == colour)


def test_more_answers_are_more_bars() -> None:
    rng = random.Random(0)
    drawn = picture([0.001 * rng.lognormvariate(4, 0.5) for _ in range(500)], stages=MODEL)
    narrow = picture([0.05] * 500)
    assert pixels(drawn, BAR) > 3 * pixels(narrow, BAR) > 0


@pytest.mark.parametrize(("failures", "share"), [(1, 0.01), (100, 0.5), (300, 0.75)])
def test_the_red_bar_is_the_share_without_a_good_answer(failures: int, share: float) -> None:
    drawn = picture([0.05] * 100, failures)
    column = [drawn.getpixel((1250, y)) for y in range(140, 560)]
    assert sum(pixel != (255, 255, 255) for pixel in column[10:]) / 410 == pytest.approx(share, abs=0.02)


def test_odd_measurements_have_a_picture_too() -> None:
    for latencies in ([0.07], [0.0000001], [0.001, 90.0], [0.0999, 0.1, 0.1001]):
        assert pixels(picture(latencies, stages=MODEL), BAR) > 0
    assert pixels(picture([], failures=3), BAR) == 0
    assert pixels(picture([], failures=3), RED) > 100
    assert picture([]).size == picture([0.1]).size


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be written"):
        save_picture(picture([0.1]), tmp_path / "no" / "x.png")
