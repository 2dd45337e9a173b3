"""One inference request, whatever protocol it came by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hindsight.errors import OptionError
from service.callers import Caller
from service.errors import BadBody
from service.kserve.tensors import InputTensor, OutputTensor, TensorSpec, Values, check_inputs

_UNSUPPORTED = {
    "sequence_id": "sequences are not supported: each request stands alone",
    "sequence_start": "sequences are not supported: each request stands alone",
    "sequence_end": "sequences are not supported: each request stands alone",
    "priority": "priorities are not supported",
}
_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class WantedOutput:
    """binary: answer it as raw bytes; None: as the request's default says."""

    name: str
    binary: bool | None = None


@dataclass(frozen=True)
class Call:
    """parameters: without those of the protocol. outputs: None for all. timeout: seconds, if one was
    given.
    """

    id: str
    parameters: Mapping[str, Any]
    inputs: Sequence[InputTensor]
    outputs: Sequence[WantedOutput] | None = None
    timeout: float | None = None

    def narrowed(self, caller: Caller) -> Caller:
        """The caller with no more time than the call asks for."""
        if self.timeout is None or self.timeout >= caller.limit:
            return caller
        arrived = caller.deadline - caller.limit
        return replace(caller, deadline=arrived + self.timeout, limit=self.timeout)


def split_parameters(parameters: Mapping[str, Any]) -> tuple[dict[str, Any], float | None]:
    """The model's own parameters, and the protocol's `timeout` in seconds (it comes in microseconds).

    Raises OptionError for what clients of this protocol may send and this server does not do.
    """
    own = dict(parameters)
    for name, reason in _UNSUPPORTED.items():
        if name in own:
            raise OptionError(f"{name}: {reason}")
    timeout = own.pop("timeout", None)
    if timeout is None:
        return own, None
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        raise OptionError(f"timeout must be a whole number of microseconds, got {str(timeout)[:64]!r}")
    # 0 is what the field holds where nobody set it.
    return own, timeout / _MICROSECONDS if timeout else None


def check_output_parameters(name: str, parameters: Mapping[str, Any]) -> None:
    """Raises BadBody for what may be asked of an output and is not offered here."""
    for key in parameters:
        if key != "binary_data":
            raise BadBody(f"output {name[:64]!r}: parameter {key[:64]!r} is not supported")


def checked(
    call: Call, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_images: int
) -> tuple[Call, Mapping[str, Values]]:
    """The call, and the values of its inputs by name: as it came, a list of numbers may take twenty times the
    bytes of its body, so it is left out of the call. Raises what check_wanted and check_inputs raise.
    """
    check_wanted(outputs, call.outputs)
    return replace(call, inputs=()), check_inputs(inputs, call.inputs, max_images)


def chosen(outputs: Mapping[str, OutputTensor], wanted: Sequence[WantedOutput] | None) -> list[OutputTensor]:
    """The outputs asked for, in that order; all of them if none was named. Raises BadBody for one that this
    model's localization head turns out not to give.
    """
    if wanted is None:
        return list(outputs.values())
    absent = [each.name for each in wanted if each.name not in outputs]
    if absent:
        raise BadBody(f"this model gives no {', '.join(absent)}; it gives {', '.join(outputs)}")
    return [outputs[each.name] for each in wanted]


def check_wanted(specs: Sequence[TensorSpec], wanted: Sequence[WantedOutput] | None) -> None:
    """Raises BadBody for an output that the model does not have, or that is asked for twice."""
    known = [spec.name for spec in specs]
    seen: set[str] = set()
    for each in wanted or ():
        if each.name not in known:
            raise BadBody(f"unknown output {each.name[:64]!r}; outputs are {', '.join(known)}")
        if each.name in seen:
            raise BadBody(f"output {each.name} is asked for twice")
        seen.add(each.name)
