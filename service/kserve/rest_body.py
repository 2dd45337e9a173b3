"""Bodies of the REST form: a JSON object, and behind it the raw data of the tensors that come as such."""

from collections.abc import Sequence
from typing import Any

from service.body import parse_json
from service.errors import BadBody
from service.kserve.call import Call, WantedOutput, check_output_parameters, split_parameters
from service.kserve.tensors import MAX_LISTED_VALUES, InputTensor, OutputTensor
from service.responses import to_json

HEADER_LENGTH = "Inference-Header-Content-Length"
_REQUEST_KEYS = {"id", "parameters", "inputs", "outputs", "model_name", "model_version"}
_INPUT_KEYS = {"name", "shape", "datatype", "parameters", "data"}
_OUTPUT_KEYS = {"name", "parameters"}


def parse_call(header_length: str | None, body: bytes) -> tuple[Call, bool]:
    """The call of a request body, and whether outputs that do not say are to be raw.

    header_length: the header HEADER_LENGTH, the bytes of JSON before the raw data. Raises BadBody,
    OptionError.
    """
    view = memoryview(body)
    json_length = len(body) if header_length is None else _length(header_length, len(body))
    commas = body.count(b",", 0, json_length)
    if commas > MAX_LISTED_VALUES:
        raise BadBody(
            f"the JSON holds about {commas} values, at most {MAX_LISTED_VALUES} are accepted: "
            "send large tensors as raw bytes (binary_data_size)"
        )
    document = _object(parse_json(bytes(view[:json_length])), "the body", _REQUEST_KEYS)
    parameters, timeout = split_parameters(_parameters(document, "the request"))
    binary = parameters.pop("binary_data_output", False)
    if not isinstance(binary, bool):
        raise BadBody(f"binary_data_output must be true or false, got {str(binary)[:64]!r}")
    call = Call(
        id=_text(document.get("id", ""), "id"),
        parameters=parameters,
        inputs=_inputs(document.get("inputs"), view[json_length:], header_length is not None),
        outputs=_outputs(document.get("outputs")),
        timeout=timeout,
    )
    return call, binary


def render(
    head: dict[str, Any], outputs: Sequence[OutputTensor], wanted: Sequence[WantedOutput] | None, binary: bool
) -> tuple[bytes, int | None]:
    """The answer's body, and the bytes of its JSON if raw data follow them.

    head: its keys beside the outputs. binary: for outputs that do not say.
    """
    forms = [binary] * len(outputs) if wanted is None else [each.binary for each in wanted]
    documents: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for tensor, own in zip(outputs, forms, strict=True):
        document: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if binary if own is None else own:
            raw.append(tensor.raw())
            document["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            document["data"] = tensor.listed()
        documents.append(document)
    header = to_json({**head, "outputs": documents})
    return (b"".join([header, *raw]), len(header)) if raw else (header, None)


def _length(text: str, size: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) <= size):
        raise BadBody(f"{HEADER_LENGTH} must be a number of bytes up to the body's {size}, got {text[:64]!r}")
    return int(text)


def _inputs(given: object, raw: memoryview, has_raw: bool) -> list[InputTensor]:
    tensors: list[InputTensor] = []
    position = 0
    for document in _objects(given, "inputs", _INPUT_KEYS):
        name = _text(document.get("name"), "an input's name")
        parameters = _parameters(document, f"input {name[:64]!r}")
        size = parameters.pop("binary_data_size", None)
        if parameters:
            raise BadBody(f"input {name[:64]!r}: parameter {next(iter(parameters))[:64]!r} is not supported")
        payload: memoryview | list[Any]
        if size is None:
            data = document.get("data")
            if not isinstance(data, list):
                raise BadBody(f"input {name[:64]!r} needs `data`, a list, or the parameter binary_data_size")
            payload = data
        else:
            if "data" in document or not has_raw:
                raise BadBody(
                    f"input {name[:64]!r}: with binary_data_size comes the header {HEADER_LENGTH} "
                    "and no `data`"
                )
            end = position + _whole(size, f"input {name[:64]!r}: binary_data_size")
            if end > len(raw):
                raise BadBody(f"input {name[:64]!r}: {size} bytes expected, {len(raw) - position} are left")
            payload = raw[position:end]
            position = end
        datatype = _text(document.get("datatype"), f"input {name[:64]!r}: datatype")
        tensors.append(InputTensor(name, datatype, _shape(document.get("shape"), name), payload))
    if position != len(raw):
        raise BadBody(f"{len(raw) - position} bytes of the body belong to no input")
    return tensors


def _outputs(given: object) -> list[WantedOutput] | None:
    if given is None or given == []:
        return None
    wanted: list[WantedOutput] = []
    for document in _objects(given, "outputs", _OUTPUT_KEYS):
        name = _text(document.get("name"), "an output's name")
        parameters = _parameters(document, f"output {name[:64]!r}")
        check_output_parameters(name, parameters)
        binary = parameters.get("binary_data")
        if not (binary is None or isinstance(binary, bool)):
            raise BadBody(f"output {name[:64]!r}: binary_data must be true or false")
        wanted.append(WantedOutput(name, binary))
    return wanted


def _objects(given: object, what: str, known: set[str]) -> list[dict[str, Any]]:
    if not isinstance(given, list):
        raise BadBody(f"{what} must be a list of tensors, got {type(given).__name__}")
    return [_object(each, f"each of {what}", known) for each in given]


def _object(given: object, what: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise BadBody(f"{what} must be a JSON object, got {type(given).__name__}")
    unknown = sorted(set(given) - known)
    if unknown:
        raise BadBody(f"{what}: unknown key {unknown[0][:64]!r}; expected {sorted(known)}")
    return given


def _parameters(document: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadBody(f"{what}: parameters must be a JSON object, got {type(parameters).__name__}")
    return dict(parameters)


def _shape(given: object, name: str) -> tuple[int, ...]:
    if not isinstance(given, list):
        raise BadBody(f"input {name[:64]!r}: shape must be a list, got {type(given).__name__}")
    return tuple(_whole(each, f"input {name[:64]!r}: each of shape") for each in given)


def _whole(given: object, what: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 2**63:
        raise BadBody(f"{what} must be a whole number from 0, got {str(given)[:64]!r}")
    return given


def _text(given: object, what: str) -> str:
    if not isinstance(given, str):
        raise BadBody(f"{what} must be a string, got {type(given).__name__}")
    if not given.isascii() and any("\ud800" <= letter <= "\udfff" for letter in given):
        raise BadBody(f"{what} has half a surrogate pair, which no answer could repeat")
    return given
