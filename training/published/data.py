"""The two data layouts a table runs on, found in one folder.

COCO: annotations/instances_{train,val}2017.json, images in train2017/ and val2017/.
Pascal VOC: VOC2007/ and VOC2012/ (also inside VOCdevkit/): the trainval of both, the test of 2007. Or any one
VOC-shaped folder: trainval and test, else train and val.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hindsight.datasets.problems import DatasetError
from hindsight.datasets.voc import is_voc_folder
from training.data.dataset import Dataset, open_dataset
from training.data.parts import first_images, joined

# images of the papers' sets: COCO 2017 (its train is their trainval35k, its val their minival) and VOC
_PAPERS = {"coco": (118_287, 5_000), "voc": (16_551, 4_952)}
LAYOUTS = {"coco-val": "coco", "coco-test-dev": "coco", "voc07-test": "voc"}  # of a row's data


@dataclass(frozen=True)
class Data:
    """What a table is trained and measured on."""

    layout: str  # "coco" or "voc"
    training: Dataset
    test: Dataset
    names: tuple[str, str]  # of the two, as a person calls them

    def differences(self, wanted: str) -> list[str]:
        """In what way this is not the data of a row whose `data` is `wanted`."""
        found = []
        if LAYOUTS[wanted] != self.layout:
            found.append(f"{self.layout.upper()} data for a table on {LAYOUTS[wanted].upper()}")
        for name, own, papers in zip(
            self.names, (self.training, self.test), _PAPERS[LAYOUTS[wanted]], strict=True
        ):
            if len(own) != papers:
                found.append(f"{len(own)} images of {name}, the paper's set has {papers}")
        if wanted == "coco-test-dev":
            found.append("measured on val2017: test-dev has no public labels")
        shared = len({r.path for r in self.training.records} & {r.path for r in self.test.records})
        if shared:
            found.append(f"{shared} of the {len(self.test)} test images are trained on")
        return found


def open_data(folder: Path, limit: int | None = None, skip_bad: bool = False) -> Data:
    """The data in `folder`; `limit`: only so many images of each set. Raises DatasetError."""
    annotations = folder / "annotations"
    if (annotations / "instances_train2017.json").is_file():
        training = open_dataset(annotations / "instances_train2017.json", skip_bad=skip_bad)
        test = open_dataset(
            annotations / "instances_val2017.json", class_names=training.class_names, skip_bad=skip_bad
        )
        return _limited(Data("coco", training, test, ("train2017", "val2017")), limit)
    if is_voc_folder(folder):
        train_split = _first_list(folder, ("trainval", "train"))
        test_split = _first_list(folder, ("test", "val"))
        training = _voc([(folder, train_split)], skip_bad)
        test = open_dataset(folder, split=test_split, class_names=training.class_names, skip_bad=skip_bad)
        return _limited(Data("voc", training, test, (train_split, test_split)), limit)
    for root in (folder, folder / "VOCdevkit"):
        years = [root / year for year in ("VOC2007", "VOC2012") if is_voc_folder(root / year)]
        if years and years[0].name == "VOC2007":
            training = _voc([(year, "trainval") for year in years], skip_bad)
            test = open_dataset(years[0], split="test", class_names=training.class_names, skip_bad=skip_bad)
            trained_on = " + ".join(f"{year.name} trainval" for year in years)
            return _limited(Data("voc", training, test, (trained_on, "VOC2007 test")), limit)
    raise DatasetError(
        f"{folder}: expected COCO (annotations/instances_train2017.json) or Pascal VOC (Annotations/, or "
        "VOC2007/ and VOC2012/)"
    )


def _voc(parts: Sequence[tuple[Path, str]], skip_bad: bool) -> Dataset:
    """The union of some (folder, split)s; a class that one of them lacks is known to all."""
    opened = [open_dataset(folder, split=split, skip_bad=skip_bad) for folder, split in parts]
    names = sorted({name for part in opened for name in part.class_names})
    sets = [
        part
        if list(part.class_names) == names
        else open_dataset(folder, split=split, class_names=names, skip_bad=skip_bad)
        for part, (folder, split) in zip(opened, parts, strict=True)
    ]
    return joined(sets) if len(sets) > 1 else sets[0]


def _first_list(folder: Path, names: Sequence[str]) -> str:
    lists = folder / "ImageSets" / "Main"
    for name in names:
        if (lists / f"{name}.txt").is_file():
            return name
    expected = " or ".join(f"{name}.txt" for name in names)
    raise DatasetError(f"{folder}: expected the list {expected} in {lists}")


def _limited(data: Data, limit: int | None) -> Data:
    if limit is None:
        return data
    return Data(data.layout, first_images(data.training, limit), first_images(data.test, limit), data.names)
