"""Batches in a reproducible order.

What an image looks like in training depends on (seed, epoch, index) alone: not on the batch size, the
number of workers or on where an earlier run stopped. So a resumed run continues with exactly the batches
the killed one would have seen.

Workers are threads: decoding, resizing and colour changes happen in Pillow, which releases the interpreter
lock, and threads share one image cache where processes would each fill their own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from hindsight.artifact import ResizeRule
from hindsight.preprocess import scaled_hw
from training.data.batch import Batch, Prepared, collate, prepare
from training.data.dataset import Dataset
from training.data.repeats import draw_repeats, repeat_factors
from training.data.transforms import Augment

_ORDER_STREAM, _SAMPLE_STREAM = 0, 1  # keeps the shuffle's random numbers apart from the augmentations'
_BATCHES_AHEAD = 2


class LoaderState(NamedTuple):
    """Where training stands: the next batch to run is `step` (from 0) of `epoch` (from 0)."""

    epoch: int
    step: int


FIRST_BATCH = LoaderState(0, 0)


class TrainLoader:
    """Shuffled, augmented batches, epoch after epoch.

    An epoch leaves out the last images % batch_size of its order (other images each epoch), so that every
    step weighs the same. A set smaller than one batch is one (smaller) batch. `workers` = 0 prepares in the
    calling thread. `repeat_threshold` shows images of rare classes more often (repeats.py). `share` (rank,
    size) hands out the rank-th of `size` equal shares of every batch; batch_size stays that of the whole.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        rule: ResizeRule,
        augment: Augment,
        seed: int = 0,
        workers: int = 0,
        repeat_threshold: float = 0.0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if workers < 0:
            raise ValueError(f"workers must be 0 or more, got {workers}")
        self.repeats = repeat_factors(dataset, repeat_threshold)
        self.dataset, self.rule, self.augment, self.seed, self.workers = dataset, rule, augment, seed, workers
        self.batch_size = min(batch_size, len(dataset))
        self.share = share

    def __len__(self) -> int:
        """Steps per epoch."""
        return int(self.repeats.sum()) // self.batch_size

    def order(self, epoch: int) -> list[int]:
        """The epoch's dataset indices: each once, or as often as its factor says."""
        rng = np.random.default_rng([self.seed, _ORDER_STREAM, epoch])
        return [int(index) for index in rng.permutation(draw_repeats(self.repeats, rng))]

    def sample(self, epoch: int, index: int) -> Prepared:
        """Image `index` as epoch `epoch` sees it."""
        rng = np.random.default_rng([self.seed, _SAMPLE_STREAM, epoch, index])
        sample = self.augment(self.dataset.load(index), rng)
        return prepare(sample, self.augment.resize_rule(self.rule, rng))

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Batches first_step, first_step + 1, ... of the epoch."""
        order = self.order(epoch)
        size = self.batch_size
        rank, ranks = self.share
        own = slice(rank * size // ranks, (rank + 1) * size // ranks)
        steps = [order[step * size : (step + 1) * size][own] for step in range(first_step, len(self))]
        return _batches(steps, lambda index: self.sample(epoch, index), self.workers)

    def batches(self, state: LoaderState = FIRST_BATCH) -> Iterator[tuple[LoaderState, Batch]]:
        """Endless (state of this batch, batch) pairs from `state` on; checkpoint `after(state)`."""
        epoch, first_step = state
        while True:
            for step, batch in enumerate(self.epoch(epoch, first_step), start=first_step):
                yield LoaderState(epoch, step), batch
            epoch, first_step = epoch + 1, 0

    def after(self, state: LoaderState) -> LoaderState:
        """The state of the batch that follows `state`'s."""
        return (
            LoaderState(state.epoch, state.step + 1)
            if state.step + 1 < len(self)
            else LoaderState(state.epoch + 1, 0)
        )


class EvalLoader:
    """Every image once, as served: no augmentation, and batches of one padded shape, because the padded shape
    is part of what the detector sees. `Batch.image_ids` tells which images a batch holds.
    """

    def __init__(self, dataset: Dataset, batch_size: int, rule: ResizeRule, workers: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.dataset, self.batch_size, self.rule, self.workers = dataset, batch_size, rule, workers
        self._steps = self._grouped()

    def __len__(self) -> int:
        """Batches in all."""
        return len(self._steps)

    def __iter__(self) -> Iterator[Batch]:
        return _batches(self._steps, lambda index: prepare(self.dataset.load(index), self.rule), self.workers)

    def _grouped(self) -> list[list[int]]:
        by_shape: dict[tuple[int, ...], list[int]] = {}
        multiple = self.rule.pad_multiple
        for index in range(len(self.dataset)):
            scaled = scaled_hw(self.dataset.image_hw(index), self.rule)
            by_shape.setdefault(tuple(math.ceil(side / multiple) for side in scaled), []).append(index)
        size = self.batch_size
        return [group[at : at + size] for group in by_shape.values() for at in range(0, len(group), size)]


def _batches(
    steps: Sequence[Sequence[int]], sample: Callable[[int], Prepared], workers: int
) -> Iterator[Batch]:
    """The steps' batches in order; workers prepare up to _BATCHES_AHEAD of them while one is used."""
    if workers == 0:
        for indices in steps:
            yield collate([sample(index) for index in indices])
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    pending: deque[list[Future[Prepared]]] = deque()
    try:
        for indices in steps:
            pending.append([pool.submit(sample, index) for index in indices])
            if len(pending) > _BATCHES_AHEAD:
                yield collate([future.result() for future in pending.popleft()])
        while pending:
            yield collate([future.result() for future in pending.popleft()])
    finally:  # also when the caller stops early
        pool.shutdown(wait=True, cancel_futures=True)
