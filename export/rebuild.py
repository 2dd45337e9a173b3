"""An artifact back to the detector it was exported from: its manifest's config, its graphs' weights.

So a host that runs artifacts in torch needs no checkpoint, and what it runs is what was published.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from export.prepare import prepared_copy
from export.weight_names import named_tensors, nameless_weight, tells_every_name
from hindsight.artifact import Artifact
from hindsight.errors import ArtifactError
from model.checkpoint import config_from_dict
from model.config import DetectorConfig
from model.detector import TwoStageDetector


def rebuilt_detector(artifact: Artifact) -> TwoStageDetector:
    """The detector that the artifact's graphs were traced from, on the CPU, in evaluation mode.

    Weights that no graph reads (of a branch that only training uses) are zero. Raises ArtifactError where the
    manifest tells no architecture, or the graphs' weights do not fit it.
    """
    detector = prepared_copy(_untrained(artifact))
    wanted = detector.state_dict()
    found: dict[str, Tensor] = {}
    complete = True
    for path in [artifact.model_path, artifact.rescore_path]:
        if path is not None:
            weights, tells_all = _weights_of(path, found)
            found |= weights
            complete = complete and tells_all
    missing = sorted(wanted.keys() - found.keys())
    if missing and not complete:
        raise ArtifactError(
            f"{artifact.path} was exported by a version that did not note where its weight {missing[0]} is; "
            "export it again to run it in torch"
        )
    for name, values in found.items():
        if name not in wanted or values.shape != wanted[name].shape:
            expected = f"has {list(wanted[name].shape)}" if name in wanted else "has no such weight"
            raise ArtifactError(
                f"{artifact.path}: weight {name} {list(values.shape)} does not fit the architecture in the "
                f"manifest, which {expected}"
            )
    detector.load_state_dict({**found, **{name: torch.zeros_like(wanted[name]) for name in missing}})
    return detector


def _untrained(artifact: Artifact) -> TwoStageDetector:
    try:
        config = config_from_dict(DetectorConfig, artifact.manifest.architecture["config"])
        # what training freezes is found by running the backbone; here it is no matter
        backbone = replace(config.backbone, frozen_levels=0)
        with torch.random.fork_rng(devices=[]):
            return TwoStageDetector(replace(config, backbone=backbone)).eval()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{artifact.path}: architecture.config in the manifest does not describe a detector of this "
            f"version ({error}); export the model again"
        ) from error


def _weights_of(path: Path, known: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """The weights of one graph that are not `known` yet, as float32, and whether it tells all its names."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors have no common base but Exception
        raise ArtifactError(f"{path} is no readable ONNX graph ({error})") from error
    stranger = nameless_weight(model)
    if stranger is not None:
        raise ArtifactError(f"{path}: nothing tells which weight of the detector is {stranger}; export again")
    weights = {}
    for name, tensor in named_tensors(model):
        if name in known:
            continue
        try:
            values = numpy_helper.to_array(tensor, base_dir=str(path.parent))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise ArtifactError(f"{path}: weight {name} cannot be read ({error})") from error
        weights[name] = torch.from_numpy(np.array(values, np.float32))
    return weights, tells_every_name(model)
