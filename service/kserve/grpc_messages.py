"""Between the protocol's gRPC messages and the forms that both protocols share."""

from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import BadBody
from service.kserve.call import Call, WantedOutput, check_output_parameters, split_parameters
from service.kserve.proto.messages import message
from service.kserve.tensors import MAX_LISTED_VALUES, InputTensor, OutputTensor

_CONTENTS = {
    "BYTES": "bytes_contents",
    "UINT8": "uint_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
}


def call_of(request: Any) -> Call:
    """The call of a ModelInferRequest. Raises BadBody, OptionError."""
    parameters, timeout = split_parameters(_parameters(request.parameters))
    wanted = [_wanted(each) for each in request.outputs]
    return Call(
        id=request.id,
        parameters=parameters,
        inputs=_inputs(request),
        outputs=wanted or None,
        timeout=timeout,
    )


def infer_response(name: str, version: str, call_id: str, outputs: Sequence[OutputTensor]) -> Any:
    """A ModelInferResponse. All data are raw: clients of this protocol read both forms, whatever they
    sent.
    """
    response = message("ModelInferResponse")(model_name=name, model_version=version, id=call_id)
    for tensor in outputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(tensor.raw())
    return response


def _inputs(request: Any) -> list[InputTensor]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadBody(
            f"{len(request.inputs)} inputs and {len(raw)} raw_input_contents; expected one for each"
        )
    tensors = []
    for index, tensor in enumerate(request.inputs):
        if tensor.parameters:
            key = next(iter(tensor.parameters))
            raise BadBody(f"input {tensor.name[:64]!r}: parameter {key[:64]!r} is not supported")
        if any(size < 0 for size in tensor.shape):
            raise BadBody(f"input {tensor.name[:64]!r}: each of shape must be a whole number from 0")
        if raw and tensor.HasField("contents"):
            raise BadBody(f"input {tensor.name[:64]!r} has contents, and the request raw_input_contents")
        payload = memoryview(raw[index]) if raw else _listed(tensor)
        tensors.append(InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), payload))
    return tensors


def _listed(tensor: Any) -> list[Any]:
    """The values of the field that the datatype has."""
    field = _CONTENTS.get(tensor.datatype)
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if field is None or filled not in ([], [field]):
        wanted = field or "raw_input_contents"
        raise BadBody(f"input {tensor.name[:64]!r} of {tensor.datatype[:64]!r} needs {wanted}, has {filled}")
    values = getattr(tensor.contents, field)
    if len(values) > MAX_LISTED_VALUES:
        raise BadBody(
            f"input {tensor.name[:64]!r} lists {len(values)} values, at most {MAX_LISTED_VALUES} are "
            "accepted: use raw_input_contents"
        )
    return list(values)


def _wanted(output: Any) -> WantedOutput:
    check_output_parameters(output.name, _parameters(output.parameters))
    return WantedOutput(output.name)


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is None:
            raise BadBody(f"parameter {name[:64]!r} has no value")
        found[name] = getattr(value, choice)
    return found
