"""Training data: reading and checking a set, augmenting it, and making batches of it.

The usual order:
    dataset = open_dataset(Path("cells"), split="train")  # a VOC folder or a COCO file; or DatasetError
    loader = TrainLoader(dataset, batch_size=8, rule=rule, augment=Augment(), seed=0)
    for batch in loader.epoch(0): ...
"""

from hindsight.datasets.problems import DatasetError, Problem
from training.data.batch import Batch, Prepared, collate, prepare
from training.data.dataset import Dataset, open_dataset
from training.data.loader import EvalLoader, LoaderState, TrainLoader
from training.data.sample import Sample
from training.data.transforms import Augment

__all__ = [
    "Augment",
    "Batch",
    "Dataset",
    "DatasetError",
    "EvalLoader",
    "LoaderState",
    "Prepared",
    "Problem",
    "Sample",
    "TrainLoader",
    "collate",
    "open_dataset",
    "prepare",
]
