"""The models as the protocol shows them: found by name and version, described from their manifests."""

from collections.abc import Iterator
from typing import Any

from hindsight.errors import ModelNotFound
from hindsight.version import __version__
from service.kserve.image_model import ImageModel
from service.kserve.tensor_model import SUFFIX, TensorModel
from service.kserve.tensors import BYTES, TensorSpec
from service.pipeline import Services

Model = ImageModel | TensorModel

PLATFORM = "hindsight"
EXTENSIONS = ("binary_tensor_data", "parameters", "model_configuration", "model_repository")
_CONFIG_TYPES = {"UINT8": "TYPE_UINT8", "INT64": "TYPE_INT64", "FP32": "TYPE_FP32", BYTES: "TYPE_STRING"}


def all_models(services: Services) -> Iterator[Model]:
    """Each model that is loaded, in both its forms."""
    for artifact in services.registry:
        yield ImageModel(artifact)
        yield TensorModel(artifact)


def find_model(services: Services, name: str, version: str = "") -> Model:
    """The model of this name and version; no version: the newest that is loaded. Raises ModelNotFound."""
    names = {artifact.manifest.name for artifact in services.registry}
    plain = name.removesuffix(SUFFIX)
    as_tensors = name not in names and plain != name
    if "@" in name:  # versions have a place of their own in this protocol
        raise ModelNotFound(f"no model {name[:64]!r}")
    wanted = plain if as_tensors else name
    artifact = services.registry.get(f"{wanted}@{version}" if version else wanted)
    return TensorModel(artifact) if as_tensors else ImageModel(artifact)


def server_metadata() -> dict[str, Any]:
    return {"name": PLATFORM, "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(services: Services, model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": [
            each.manifest.version for each in services.registry.versions(model.artifact.manifest.name)
        ],
        "platform": PLATFORM,
        "inputs": [_tensor_metadata(spec) for spec in model.inputs],
        "outputs": [_tensor_metadata(spec) for spec in model.outputs],
    }


def model_config(model: Model) -> dict[str, Any]:
    """What the model-configuration extension answers; class names and defaults are among its parameters.

    max_batch_size 0: the first dimension is part of each shape, and batching is the server's own affair.
    """
    manifest = model.artifact.manifest
    parameters = {"classes": ",".join(manifest.class_names)}
    for name in ("class_threshold", "score_threshold", "iou_weight", "nms_threshold"):
        parameters[name] = str(getattr(manifest.defaults, name))
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": 0,
        "input": [{**_tensor_config(spec), "optional": spec.optional} for spec in model.inputs],
        "output": [_tensor_config(spec) for spec in model.outputs],
        "parameters": {name: {"string_value": value} for name, value in parameters.items()},
    }


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _tensor_config(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": _CONFIG_TYPES[spec.datatype], "dims": list(spec.shape)}
