"""The processes of one training run, as torchrun starts them: one process a GPU, or any number on a CPU.

Each process computes its share of every global batch. DistributedDataParallel averages gradients over the
processes; every loss is divided by a count averaged over them too (`model.losses.mean_over_processes`). So a
step is that of one process with the whole batch, up to what each process draws at random.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hindsight.errors import HindsightError
from model.detector import TwoStageDetector

# the first process validates while the others wait for it
_PATIENCE = timedelta(hours=6)


class TeamError(HindsightError):
    """The processes can't train together; the message says what torchrun should be told."""


class _Losses(nn.Module):
    """DistributedDataParallel hooks into forward(); a detector's forward() is inference."""

    def __init__(self, detector: TwoStageDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, *batch: object) -> dict[str, Tensor]:
        return self.detector.losses(*batch)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Team:
    """`rank` of `size` processes; a run of one process is a team of one."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process validates, writes and talks."""
        return self.rank == 0

    def check(self, batch_size: int, accumulate: int) -> None:
        """Raises TeamError unless every process gets the same number of images in every part of a batch."""
        if batch_size % (self.size * accumulate) and self.size > 1:
            raise TeamError(
                f"a batch of {batch_size} images in {accumulate} parts can't be shared evenly by {self.size} "
                f"processes: expected a multiple of {self.size * accumulate}; set --batch-size"
            )

    def losses_of(self, detector: TwoStageDetector) -> nn.Module:
        """A module called with images, sizes and targets that gives the losses by name."""
        module = _Losses(detector)
        if self.size == 1:
            return module
        device = next(detector.parameters()).device
        ids = [device.index] if device.type == "cuda" else None
        # batch statistics are frozen: there is nothing to broadcast after the first step
        return DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value averaged over the processes, so that all of them see the same figures, NaN included."""
        if self.size == 1:
            return dict(values)
        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        packed = torch.tensor(list(values.values()), device=device, dtype=torch.float64)
        dist.all_reduce(packed)
        return dict(zip(values, (packed / self.size).tolist(), strict=True))

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()

    def seed(self, seed: int, step: int) -> None:
        """Processes other than the first draw numbers of their own, the same again after a resume."""
        if self.rank:
            torch.manual_seed((seed * 1_000_003 + step) * 4096 + self.rank)


def without_sync(losses: nn.Module, *, skip: bool) -> AbstractContextManager[object]:
    """Gradients stay in this process while `skip`: the last part of a batch brings them together."""
    if skip and isinstance(losses, DistributedDataParallel):
        return losses.no_sync()
    return nullcontext()


@contextmanager
def joined(device: str) -> Iterator[tuple[Team, str]]:
    """The team that torchrun's environment speaks of, and this process's own device. Raises TeamError."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(), device
        return
    own = device
    if device == "cuda":
        own = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
    elif device != "cpu":
        raise TeamError(f"with several processes --device is cpu or cuda (one GPU each), got {device!r}")
    if device == "cuda":
        if int(os.environ.get("LOCAL_RANK", "0")) >= torch.cuda.device_count():
            raise TeamError(
                f"{os.environ.get('LOCAL_WORLD_SIZE', size)} processes on {torch.cuda.device_count()} GPUs: "
                "start torchrun with at most one process a GPU (--nproc-per-node)"
            )
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Team(dist.get_rank(), dist.get_world_size()), own
    finally:
        dist.destroy_process_group()


def is_leader() -> bool:
    """Whether this process is the one that talks, known before the processes have met."""
    return os.environ.get("RANK", "0") == "0"
