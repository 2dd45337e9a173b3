"""Batches: what they hold, and that they come again exactly the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hindsight.artifact import ResizeRule
from tests.unit.training.data_sets import voc_object, write_image, write_voc
from training.data import (
    Augment,
    Batch,
    Dataset,
    EvalLoader,
    LoaderState,
    TrainLoader,
    collate,
    open_dataset,
    prepare,
)

RULE = ResizeRule(48, 64)
ALL = Augment(hflip=0.5, vflip=0.5, rot90=True, scales=(32, 48, 64), long_side=96, photometric=1.0)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    objects = [voc_object("cell", 3, 4, 30, 40), voc_object("dust", 5, 5, 20, 9, difficult=1)]
    return open_dataset(write_voc(tmp_path / "set", {name: objects for name in "abcdefg"}))


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.image_ids == second.image_ids
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.image_sizes, second.image_sizes)
    for a, b in zip(first.targets, second.targets, strict=True):
        assert torch.equal(a.boxes, b.boxes)


def test_a_batch_holds_padded_pixels_sizes_and_targets(dataset: Dataset) -> None:
    small = prepare(dataset.load(0), ResizeRule(24, 64))
    large = prepare(dataset.load(1), ResizeRule(48, 64))
    batch = collate([small, large])
    assert batch.images.shape == (2, 64, 64, 3) and batch.images.dtype == torch.uint8
    assert batch.image_sizes.tolist() == [[24, 32], [48, 64]]
    assert not batch.images[0, 24:].any() and not batch.images[0, :, 32:].any()
    assert torch.equal(batch.images[1, :48], torch.from_numpy(dataset.load(1).pixels.copy()))
    assert batch.targets[0].boxes.tolist() == [[1, 1.5, 15, 20]]  # half of (2, 3, 30, 40)
    assert batch.targets[0].labels.tolist() == [0]
    assert batch.targets[1].crowd_boxes.tolist() == [[4, 4, 20, 9]]


def test_an_image_without_boxes_gives_an_empty_target(tmp_path: Path) -> None:
    dataset = open_dataset(write_voc(tmp_path / "set", {"a": []}), class_names=("cell",))
    (target,) = collate([prepare(dataset.load(0), RULE)]).targets
    assert target.boxes.shape == (0, 4) and target.labels.shape == (0,) and target.crowd_boxes.shape == (0, 4)


def test_an_epoch_shows_each_image_at_most_once_and_epochs_differ(dataset: Dataset) -> None:
    loader = TrainLoader(dataset, 2, RULE, Augment(), seed=3)
    assert len(loader) == 3
    epochs = [[i for batch in loader.epoch(epoch) for i in batch.image_ids] for epoch in range(2)]
    assert all(len(set(ids)) == 6 for ids in epochs)
    assert epochs[0] != epochs[1]
    other_seed = TrainLoader(dataset, 2, RULE, Augment(), seed=4)
    assert other_seed.order(0) != loader.order(0)


def test_a_set_smaller_than_a_batch_is_one_batch(dataset: Dataset) -> None:
    loader = TrainLoader(dataset, 100, RULE, Augment())
    assert [len(batch) for batch in loader.epoch(0)] == [7]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_seed_gives_the_same_batches_whatever_the_workers(dataset: Dataset, workers: int) -> None:
    expected = list(TrainLoader(dataset, 2, RULE, ALL, seed=5).epoch(1))
    for a, b in zip(expected, TrainLoader(dataset, 2, RULE, ALL, 5, workers).epoch(1), strict=True):
        assert_equal(a, b)


def test_an_image_looks_the_same_in_any_batch_size_but_not_in_any_epoch(dataset: Dataset) -> None:
    one, three = TrainLoader(dataset, 1, RULE, ALL, seed=5), TrainLoader(dataset, 3, RULE, ALL, seed=5)
    assert one.order(0) == three.order(0)
    looks = [loader.sample(epoch, 4).letterboxed.image for loader, epoch in ((one, 0), (three, 0), (one, 1))]
    np.testing.assert_array_equal(looks[0], looks[1])
    assert looks[0].shape != looks[2].shape or (looks[0] != looks[2]).any()


def test_training_resumes_in_the_middle_of_an_epoch(dataset: Dataset) -> None:
    loader = TrainLoader(dataset, 2, RULE, ALL, seed=1)
    states: list[LoaderState] = []
    batches: list[Batch] = []
    for state, batch in loader.batches():
        states.append(state)
        batches.append(batch)
        if len(batches) == 7:
            break
    assert states == [LoaderState(e, s) for e, s in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0))]
    assert [loader.after(state) for state in states[:-1]] == states[1:]
    resumed = TrainLoader(dataset, 2, RULE, ALL, seed=1).batches(loader.after(states[3]))
    for expected in range(4, 7):
        state, batch = next(resumed)
        assert state == states[expected]
        assert_equal(batch, batches[expected])


def test_stopping_early_leaves_no_thread_behind(dataset: Dataset) -> None:
    import threading

    batches: Iterator[Batch] = TrainLoader(dataset, 2, RULE, ALL, workers=2).epoch(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_evaluation_shows_every_image_once_in_batches_of_one_shape(dataset: Dataset, tmp_path: Path) -> None:
    root = write_voc(tmp_path / "mixed", {name: [voc_object("cell", 3, 4, 30, 40)] for name in "abcde"})
    for name in "bd":
        write_image(root / "JPEGImages" / f"{name}.png", 48, 64)
        file = root / "Annotations" / f"{name}.xml"
        swapped = file.read_text().replace(
            "<width>64</width><height>48</height>", "<width>48</width><height>64</height>"
        )
        file.write_text(swapped)
    loader = EvalLoader(open_dataset(root), 2, RULE)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert sorted(i for batch in batches for i in batch.image_ids) == [1, 2, 3, 4, 5]
    for batch in batches:
        assert {boxed.image.shape for boxed in batch.letterboxed} == {tuple(batch.images.shape[1:])}


def test_decoded_images_are_kept_up_to_the_limit(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {name: [] for name in "abc"})
    bytes_per_image = 64 * 48 * 3
    dataset = open_dataset(root, class_names=("cell",), cache_bytes=2 * bytes_per_image)
    first = [dataset.load(index).pixels for index in range(3)]
    second = [dataset.load(index).pixels for index in range(3)]
    assert [a is b for a, b in zip(first, second, strict=True)] == [True, True, False]
    np.testing.assert_array_equal(first[2], second[2])
    with pytest.raises(ValueError, match="read-only"):
        first[0][0, 0, 0] = 1
