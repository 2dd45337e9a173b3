"""The subcommands of this package."""

from training.evaluate_command import evaluate
from training.import_command import import_detector
from training.reproduce_command import reproduce
from training.train_command import train

__all__ = ["evaluate", "import_detector", "reproduce", "train"]
