"""The protocol's messages, as classes, from a descriptor pool of their own."""

from typing import Any

from google.protobuf import descriptor_pool, message_factory

from service.kserve.proto.descriptor import DESCRIPTOR

SERVICE = "inference.GRPCInferenceService"

_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(DESCRIPTOR)


def message(name: str) -> Any:
    """The class of the message `name`, such as ModelInferRequest."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"inference.{name}"))


def methods() -> dict[str, tuple[Any, Any]]:
    """The service's methods: name -> classes of its request and its response."""
    service = _pool.FindServiceByName(SERVICE)
    return {
        method.name: (
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
        )
        for method in service.methods
    }
