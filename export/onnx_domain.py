"""What every operator of the ONNX domain `hindsight` shares, whichever file describes it."""

import onnx
from onnx import helper, parser
from onnx.defs import OpSchema

DOMAIN = "hindsight"
DOMAIN_VERSION = 1
OPSET = 20
PLUGIN_ATTRIBUTES: dict[str, str] = {"plugin_namespace": DOMAIN, "plugin_version": "1"}


def parse_function(text: str) -> onnx.FunctionProto:
    """An ONNX function from its text form."""
    function: onnx.FunctionProto = parser.parse_function(text)
    return function


def plugin_attributes() -> list[OpSchema.Attribute]:
    """What a node carries so that TensorRT finds the plugin that takes it."""
    return [
        OpSchema.Attribute(name, helper.make_attribute(name, value))
        for name, value in PLUGIN_ATTRIBUTES.items()
    ]
