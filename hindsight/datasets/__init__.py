"""Annotated data sets, read and checked without torch: Pascal VOC folders, COCO files, YOLO folders.

Training, evaluation and the audit all read through here, so a file means the same to each of them.
"""

from hindsight.datasets.problems import DatasetError, Problem
from hindsight.datasets.records import RawBox, RawImage, Record, check_image
from hindsight.datasets.source import DataFormat, default_split, format_of, read_annotations

__all__ = [
    "DataFormat",
    "DatasetError",
    "Problem",
    "RawBox",
    "RawImage",
    "Record",
    "check_image",
    "default_split",
    "format_of",
    "read_annotations",
]
