"""The subcommands of this package."""

from training.evaluate_command import evaluate
from training.reproduce_command import reproduce
from training.train_command import train

__all__ = ["evaluate", "reproduce", "train"]
