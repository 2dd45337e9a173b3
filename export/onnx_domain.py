"""What all our ONNX operators share: their domain, its version, and what a plugin is found by."""

import onnx
from onnx import helper, parser
from onnx.defs import OpSchema

DOMAIN = "hindsight"
DOMAIN_VERSION = 1
OPSET = 20
PLUGIN_ATTRIBUTES: dict[str, str] = {"plugin_namespace": DOMAIN, "plugin_version": "1"}


def parse_function(text: str) -> onnx.FunctionProto:
    """A function from ONNX's text form."""
    function: onnx.FunctionProto = parser.parse_function(text)
    return function


def plugin_attributes() -> list[OpSchema.Attribute]:
    """PLUGIN_ATTRIBUTES for a schema, with their defaults."""
    return [
        OpSchema.Attribute(name, helper.make_attribute(name, value))
        for name, value in PLUGIN_ATTRIBUTES.items()
    ]
