"""Deformable convolution in ONNX: schemas, bodies of standard operators, the torch translation.

ONNX has a DeformConv of its own, but the oldest ONNX Runtime that we support runs it on no device; the body
here is made of what every version runs. One GridSample reads all taps, a 1x1 convolution adds them up:

    x [B, C, H, W] -> GridSample at [B, K * h, w] positions -> [B, C, K * h, w] -> times the mask (v2)
        -> seen as [B, C * K, h, w] -> Conv with the weight seen as [O, C / g * K, 1, 1] -> [B, O, h, w]

Both put the taps of a channel, and the channels of a group, side by side: a grouped convolution stays one.
GridSample with zero padding interpolates as torchvision does: a neighbour outside the map counts as zero.

There is no plugin for these two: an engine takes the body too (`onnx_ops.strip_functions` leaves it).

Shapes: B images, C channels in, O out, g groups; a kernel of kh x kw taps, K = kh * kw; maps of H x W in and
h x w out.
"""

from collections.abc import Callable
from typing import Any

import onnx
from onnx.defs import OpSchema

from export.onnx_domain import DOMAIN, DOMAIN_VERSION, OPSET, parse_function

# v1 and v2: functions have no optional inputs. Not "DeformConv": onnx takes operators of one name for one,
# whatever their domains.
PLAIN, MODULATED = "DeformableConv", "ModulatedDeformableConv"
NAMES = (PLAIN, MODULATED)


def deform_conv_function(name: str) -> onnx.FunctionProto:
    """Body of DeformableConv or ModulatedDeformableConv; shapes as `model.ops.deform_conv2d`."""
    modulated = name == MODULATED
    return parse_function(
        f"""
        <domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
        {name} <strides, pads, dilations, group> (x, offset, {"mask, " if modulated else ""}weight) => (y)
        {{
            zero = Constant <value_int: int = 0> ()
            one = Constant <value_int: int = 1> ()
            float_one = Constant <value_float: float = 1.0> ()
            float_two = Constant <value_float: float = 2.0> ()
            kept_1d = Constant <value_ints: ints = [0]> ()
            rest_1d = Constant <value_ints: ints = [-1]> ()
            two_1d = Constant <value_ints: ints = [2]> ()
            strides_yx = Constant <value_ints: ints = @strides> ()
            pads_yx = Constant <value_ints: ints = @pads> ()
            dilations_yx = Constant <value_ints: ints = @dilations> ()
            kernel_yx = Shape <start = 2, end = 4> (weight)
            size_yx = Shape <start = 2, end = 4> (x)
            out_yx = Shape <start = 2, end = 4> (offset)
            out_w_1d = Shape <start = 3, end = 4> (offset)
            field_shape = Concat <axis = 0> (kept_1d, kernel_yx, two_1d, out_yx)
            field = Reshape (offset, field_shape)
            {_grid_axis("y", 0, tap_axes="1, 2, 3", step_axes="1")}
            {_grid_axis("x", 1, tap_axes="1, 2", step_axes="0")}
            grid_by_tap = Concat <axis = -1> (grid_x, grid_y)
            grid_shape = Concat <axis = 0> (kept_1d, rest_1d, out_w_1d, two_1d)
            grid = Reshape (grid_by_tap, grid_shape)
            read = GridSample <mode = "linear", padding_mode = "zeros", align_corners = 0> (x, grid)
            {_weighing() if modulated else "weighed = Identity (read)"}
            columns_shape = Concat <axis = 0> (kept_1d, rest_1d, out_yx)
            columns = Reshape (weighed, columns_shape)
            flat_shape = Constant <value_ints: ints = [0, -1, 1, 1]> ()
            flat_weight = Reshape (weight, flat_shape)
            y = Conv <group: int = @group> (columns, flat_weight)
        }}
        """
    )


def _grid_axis(name: str, index: int, *, tap_axes: str, step_axes: str) -> str:
    """Statements that give `grid_{name}` [B, kh, kw, h, w, 1]: where each tap reads, in GridSample's units.

    Pixel p of n lies at (2 p + 1) / n - 1 (align_corners = 0: unlike the other convention it has no division
    by n - 1). The axes put taps and steps of this direction where they belong in [kh, kw, h, w].
    """
    return f"""
        index_{name} = Constant <value_int: int = {index}> ()
        kernel_{name} = Gather <axis = 0> (kernel_yx, index_{name})
        out_{name} = Gather <axis = 0> (out_yx, index_{name})
        stride_{name} = Gather <axis = 0> (strides_yx, index_{name})
        pad_{name} = Gather <axis = 0> (pads_yx, index_{name})
        dilation_{name} = Gather <axis = 0> (dilations_yx, index_{name})
        size_int_{name} = Gather <axis = 0> (size_yx, index_{name})
        size_{name} = Cast <to = 1> (size_int_{name})
        taps_{name} = Range (zero, kernel_{name}, one)
        taps_px_{name} = Mul (taps_{name}, dilation_{name})
        tap_axes_{name} = Constant <value_ints: ints = [{tap_axes}]> ()
        taps_4d_{name} = Unsqueeze (taps_px_{name}, tap_axes_{name})
        steps_{name} = Range (zero, out_{name}, one)
        steps_px_{name} = Mul (steps_{name}, stride_{name})
        starts_{name} = Sub (steps_px_{name}, pad_{name})
        step_axes_{name} = Constant <value_ints: ints = [{step_axes}]> ()
        starts_nd_{name} = Unsqueeze (starts_{name}, step_axes_{name})
        regular_int_{name} = Add (taps_4d_{name}, starts_nd_{name})
        regular_{name} = Cast <to = 1> (regular_int_{name})
        moved_by_{name} = Gather <axis = 3> (field, index_{name})
        position_{name} = Add (regular_{name}, moved_by_{name})
        doubled_{name} = Mul (position_{name}, float_two)
        centre_{name} = Add (doubled_{name}, float_one)
        share_{name} = Div (centre_{name}, size_{name})
        normal_{name} = Sub (share_{name}, float_one)
        grid_{name} = Unsqueeze (normal_{name}, rest_1d)
    """


def _weighing() -> str:
    """Statements that multiply what each tap read [B, C, K * h, w] by its mask, given as [B, K, h, w]."""
    return """
        mask_shape = Constant <value_ints: ints = [0, 1, -1]> ()
        mask_row_shape = Concat <axis = 0> (mask_shape, out_w_1d)
        mask_rows = Reshape (mask, mask_row_shape)
        weighed = Mul (read, mask_rows)
    """


def deform_conv_schemas() -> list[OpSchema]:
    """Schemas of the two operators."""
    return [_schema(name) for name in NAMES]


def _schema(name: str) -> OpSchema:
    attribute, parameter = OpSchema.Attribute, OpSchema.FormalParameter
    mask = [parameter("mask", "T", "[B, K, h, w], multiplies what each tap reads")]
    return OpSchema(
        name,
        DOMAIN,
        DOMAIN_VERSION,
        doc="Convolution whose taps read the map where offsets say.",
        inputs=[
            parameter("x", "T", "[B, C, H, W]"),
            parameter("offset", "T", "[B, 2 * K, h, w]: (dy, dx) in pixels, tap after tap"),
            *(mask if name == MODULATED else []),
            parameter("weight", "T", "[O, C / group, kh, kw]"),
        ],
        outputs=[parameter("y", "T", "[B, O, h, w]")],
        type_constraints=[("T", ["tensor(float)"], "maps, offsets and weights")],
        attributes=[
            attribute("strides", OpSchema.AttrType.INTS, required=True),
            attribute("pads", OpSchema.AttrType.INTS, required=True),  # (vertical, horizontal)
            attribute("dilations", OpSchema.AttrType.INTS, required=True),
            attribute("group", OpSchema.AttrType.INT, required=True),
        ],
    )


def translations(opset: Any) -> dict[Callable[..., Any], Callable[..., Any]]:
    """The rows of the exporter's translation table; opset: onnxscript's, of our domain."""
    import torch

    def deform_conv2d(
        x: Any,
        offset: Any,
        mask: Any,
        weight: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> Any:
        attributes = {
            "strides": list(stride),
            "pads": list(padding),
            "dilations": list(dilation),
            "group": groups,
        }
        if mask is None:
            return getattr(opset, PLAIN)(x, offset, weight, **attributes)
        return getattr(opset, MODULATED)(x, offset, mask, weight, **attributes)

    return {torch.ops.hindsight.deform_conv2d.default: deform_conv2d}
