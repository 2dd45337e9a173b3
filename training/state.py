"""All that a killed run needs to go on as if nothing had happened, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from model.checkpoint import CheckpointError, read_tensors, save_tensors
from model.detector import TwoStageDetector

FORMAT = "hindsight-training-state-2"


class MovingAverage:
    """Exponential moving average of every float tensor of a model; young averages follow faster."""

    def __init__(self, detector: TwoStageDetector, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in detector.state_dict().items()}

    @torch.no_grad()
    def update(self, detector: TwoStageDetector, step: int) -> None:
        """Fold in the weights after `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in detector.state_dict().items():
            if value.dtype.is_floating_point:
                self.weights[key].lerp_(value, 1 - decay)
            else:
                self.weights[key].copy_(value)


@dataclass(frozen=True)
class Progress:
    """Where the run stands: the next step, and the best validation so far."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best_ap: float = -1.0
    best_epoch: int = -1


def save_state(
    path: Path,
    detector: nn.Module,
    optimiser: Optimizer,
    average: MovingAverage | None,
    progress: Progress,
    fingerprint: Mapping[str, Any],
) -> None:
    """Weights, optimiser slots, moving average, random state and progress, written atomically."""
    tensors = {f"model.{k}": v for k, v in detector.state_dict().items()}
    names = {id(p): n for n, p in detector.named_parameters()}
    for parameter, slots in optimiser.state.items():
        for slot, value in slots.items():
            if value is not None:
                tensors[f"optimiser.{slot}.{names[id(parameter)]}"] = value
    if average is not None:
        tensors |= {f"average.{k}": v for k, v in average.weights.items()}
    tensors["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    metadata = {
        "format": FORMAT,
        "progress": json.dumps(progress.__dict__),
        "fingerprint": json.dumps(dict(fingerprint), sort_keys=True),
    }
    save_tensors(path, tensors, metadata)


def load_state(
    path: Path,
    detector: nn.Module,
    optimiser: Optimizer,
    average: MovingAverage | None,
    fingerprint: Mapping[str, Any],
) -> Progress:
    """Put everything back. Raises CheckpointError, also when the run is not the one that was saved."""
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a training state of this version of Hindsight")
    saved = json.loads(metadata["fingerprint"])
    wanted = json.loads(json.dumps(dict(fingerprint)))
    for key, value in wanted.items():
        if saved.get(key) != value:
            raise CheckpointError(
                f"can't resume: {key} was {saved.get(key)!r} in the saved run and is {value!r} now; "
                "resume with the same recipe, data and seed, or start in a new folder"
            )
    detector.load_state_dict(_part(tensors, "model."))
    parameters = dict(detector.named_parameters())
    for key, value in _part(tensors, "optimiser.").items():
        slot, _, name = key.partition(".")
        parameter = parameters[name]
        # AdamW counts its steps on the CPU
        optimiser.state[parameter][slot] = value if slot == "step" else value.to(parameter.device)
    if average is not None:
        device = next(detector.parameters()).device
        average.weights = {k: v.to(device) for k, v in _part(tensors, "average.").items()}
    torch.set_rng_state(tensors["random"])
    if torch.cuda.is_available() and "random_cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random_cuda"])
    return Progress(**json.loads(metadata["progress"]))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
