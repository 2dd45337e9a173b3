"""A checked data set, in memory except for its pixels."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hindsight.datasets.problems import DatasetError, Problem
from hindsight.datasets.records import RawImage, Record, check_image
from hindsight.datasets.source import format_of, read_annotations
from hindsight.errors import ImageError
from hindsight.preprocess import decode_image
from training.data.sample import Sample
from training.data.semantic import read_semantic_map, with_semantic_maps

DEFAULT_CACHE_BYTES = 512 * 2**20


class Dataset:
    """Images with boxes of `class_names`; every entry has been checked.

    Decoded images are kept (uint8, original size) until `cache_bytes` are used: sets of a few hundred
    images are decoded once, larger ones partly. `problems` lists what was left out, empty unless opened
    with skip_bad.
    """

    def __init__(
        self,
        records: Sequence[Record],
        class_names: Sequence[str],
        problems: Sequence[Problem] = (),
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.class_names = tuple(class_names)
        self.problems = tuple(problems)
        self._records = tuple(records)
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._cache_left = cache_bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._records)

    @property
    def has_masks(self) -> bool:
        """Whether it was opened with its objects' shapes."""
        return all(record.shapes is not None for record in self._records)

    @property
    def records(self) -> tuple[Record, ...]:
        """Every entry: what subsets and unions are made of."""
        return self._records

    def files(self) -> frozenset[Path]:
        """The image files, resolved: two sets that share some are not independent."""
        return frozenset(record.path.resolve() for record in self._records)

    def image_hw(self, index: int) -> tuple[int, int]:
        """Height and width of the image, without decoding it."""
        return self._records[index].image_hw

    def annotations(self, index: int) -> Sample:
        """The sample without its pixels."""
        return self._sample(index, None)

    def load(self, index: int) -> Sample:
        """The sample with its pixels [H, W, 3], read-only. Raises DatasetError if they do not decode."""
        return self._sample(index, self._pixels(index))

    def _sample(self, index: int, image: NDArray[np.uint8] | None) -> Sample:
        record = self._records[index]
        return Sample(
            image,
            record.boxes,
            record.labels,
            record.crowd,
            record.area,
            record.image_id,
            record.path,
            record.shapes,
            read_semantic_map(record.semantic_path)
            if image is not None and record.semantic_path is not None
            else None,
        )

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        record = self._records[index]
        try:
            image = decode_image(record.path.read_bytes())
        except (OSError, ImageError) as error:
            raise DatasetError(f"{record.path}: the image does not decode: {error}") from error
        if image.shape[:2] != record.image_hw:
            raise DatasetError(
                f"{record.path}: decodes to {image.shape[1]}x{image.shape[0]} (width x height), but was "
                f"{record.image_hw[1]}x{record.image_hw[0]} when the set was opened"
            )
        image.setflags(write=False)
        with self._lock:
            if index not in self._cache and image.nbytes <= self._cache_left:
                self._cache[index] = image
                self._cache_left -= image.nbytes
        return image


def open_dataset(
    path: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    class_names: Sequence[str] | None = None,
    skip_bad: bool = False,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    masks: bool = False,
    semantic: Path | None = None,
) -> Dataset:
    """Opens and checks a Pascal VOC folder, a YOLO folder or a COCO JSON file.

    `split` names a VOC list (ImageSets/Main/SPLIT.txt) or a key of YOLO's data.yaml. Classes, and so labels,
    come from the annotations (VOC: sorted names; COCO: category id order; YOLO: as listed) unless
    `class_names` fixes them, as evaluating a trained model must. `masks`: read the objects' shapes as well,
    which a COCO file has. `semantic`: a folder of maps of classes, STEM.png for each image. Raises
    DatasetError with every bad entry; with `skip_bad` those are left out instead and listed in
    `Dataset.problems`.
    """
    problems: list[Problem] = []
    kind = format_of(path)
    if masks and kind != "coco":
        titles = {"voc": "Pascal VOC", "yolo": "YOLO"}
        raise DatasetError(f"{path}: masks are read from COCO files; of a {titles[kind]} folder, boxes only")
    raw_images, names = read_annotations(path, images, split, problems)
    names_in_order = tuple(class_names or names)
    return _checked(path, raw_images, names_in_order, problems, skip_bad, cache_bytes, masks, semantic)


def _checked(
    path: Path,
    raw_images: Sequence[RawImage],
    class_names: tuple[str, ...],
    problems: list[Problem],
    skip_bad: bool,
    cache_bytes: int,
    masks: bool,
    semantic: Path | None,
) -> Dataset:
    class_index = {name: index for index, name in enumerate(class_names)}
    if len(class_index) != len(class_names):
        raise DatasetError(f"{path}: class names repeat: {', '.join(class_names)}")
    records = []
    for raw in raw_images:
        record = check_image(raw, class_index, problems, masks=masks)
        if record is not None:
            records.append(record)
    if semantic is not None:
        records = with_semantic_maps(records, semantic, problems)
    if problems and not skip_bad:
        raise DatasetError.from_problems(path, problems)
    if not records:
        raise DatasetError(
            f"{path}: no usable image" + (f" ({len(problems)} left out as bad)" if problems else ""), problems
        )
    if not class_index:
        raise DatasetError(f"{path}: no annotated object, so no classes: name them")
    return Dataset(records, class_names, problems, cache_bytes)
