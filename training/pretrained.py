"""ImageNet weights for a backbone: by name from the libraries that publish them, or from a file."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from hindsight.errors import HindsightError
from model.checkpoint import load_backbone, with_own_offsets
from model.detector import TwoStageDetector

_TORCHVISION = ("resnet50", "resnet101", "resnext101_64x4d")
# timm's default weights of this name are another data set's, and not for commercial use
_TIMM = {"resnext101_32x4d": "resnext101_32x4d.gluon_in1k"}
IMAGENET, NONE = "imagenet", "none"


class WeightsUnavailable(HindsightError):
    """The named weights could not be had; the message says what to give instead."""


def load_pretrained(detector: TwoStageDetector, weights: str) -> None:
    """`weights`: a safetensors file, "imagenet" (fetched and cached by timm or torchvision) or "none".

    Raises WeightsUnavailable, CheckpointError.
    """
    if weights == NONE:
        return
    if weights != IMAGENET:
        load_backbone(detector, Path(weights))
        return
    name = detector.config.backbone.name
    try:
        state = _published(name)
    except Exception as error:  # the libraries let every network error through as its own
        raise WeightsUnavailable(
            f"could not fetch ImageNet weights for {name} ({type(error).__name__}): "
            "give a file with --weights FILE.safetensors, or train from scratch with --weights none"
        ) from error
    module: nn.Module = getattr(detector.backbone, "net", detector.backbone)
    own = module.state_dict()
    module.load_state_dict(with_own_offsets({k: v for k, v in state.items() if k in own}, own))


def _published(name: str) -> dict[str, Tensor]:
    if name in _TORCHVISION:
        import torchvision

        weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
        state: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
        return state
    import timm

    model: nn.Module = timm.create_model(_TIMM.get(name, name), pretrained=True)
    return model.state_dict()
