"""Our operators in ONNX: schemas of domain `hindsight`, bodies of standard operators, the torch translation.

A graph holds one node `hindsight::MultilevelRoiAlign3` or `hindsight::BatchedNms`, which an engine that
has the operator as a plugin takes whole. The body attached to the model as an ONNX function is what stock
runtimes run. Functions cannot be variadic: there is one RoI operator for each number of feature levels L.
RoI-Align is here, suppression in onnx_nms.py.

Shapes: L levels, B images, N boxes an image, C channels, s output size.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import onnx
from onnx import helper
from onnx.defs import OpSchema

from export import onnx_deform, onnx_nms
from export.onnx_domain import (
    DOMAIN,
    DOMAIN_VERSION,
    OPSET,
    PLUGIN_ATTRIBUTES,
    parse_function,
    plugin_attributes,
)

MAX_LEVELS = 6

# The FPN rule floor(4 + log2(sqrt(area) / 224) + 1e-6) >= log2(stride), solved for the side of the box:
# sqrt(area) >= 14 * stride, up to the factor 2 ** 1e-6. Comparing sides needs no logarithm and gives the
# lowest level to a box without area.
_SIDE_PER_STRIDE = 14.0
_SIDE_SLACK = 2.0**1e-6


def roi_align_name(levels: int) -> str:
    """Name of the RoI operator over `levels` feature maps."""
    if not 1 <= levels <= MAX_LEVELS:
        raise ValueError(f"expected 1 to {MAX_LEVELS} feature levels, got {levels}")
    return f"MultilevelRoiAlign{levels}"


def register_schemas() -> None:
    """Tell onnx about our operators (exporter and checker look them up); idempotent."""
    roi_aligns = [_roi_align_schema(levels) for levels in range(1, MAX_LEVELS + 1)]
    for schema in [*roi_aligns, *onnx_nms.schemas(), *onnx_deform.deform_conv_schemas()]:
        if not onnx.defs.has(schema.name, DOMAIN):
            onnx.defs.register_schema(schema)


def function_bodies(op_types: Iterable[str]) -> list[onnx.FunctionProto]:
    """ONNX functions for the operators named in `op_types`. Raises KeyError for one we lack."""
    makers = onnx_nms.function_makers()
    for levels in range(1, MAX_LEVELS + 1):
        makers[roi_align_name(levels)] = partial(multilevel_roi_align_function, levels)
    for name in onnx_deform.NAMES:
        makers[name] = partial(onnx_deform.deform_conv_function, name)
    return [makers[op_type]() for op_type in sorted(set(op_types))]


def attach_functions(model: onnx.ModelProto) -> None:
    """Append the body of each of our operators in the graph (present before export, it is inlined)."""
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    present = {function.name for function in model.functions if function.domain == DOMAIN}
    model.functions.extend(function_bodies(used - present))
    domains = {entry.domain for entry in model.opset_import}
    if used and DOMAIN not in domains:
        model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))


def strip_functions(model: onnx.ModelProto) -> int:
    """Remove our bodies in place, for engines that bring plugins; returns how many nodes need a plugin.

    An operator that has no plugin keeps its body.
    """
    kept = [f for f in model.functions if f.domain != DOMAIN or f.name in onnx_deform.NAMES]
    del model.functions[:]
    model.functions.extend(kept)
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    return sum(node.op_type not in onnx_deform.NAMES for node in nodes)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """`custom_translation_table` of `torch.onnx.export(dynamo=True)`: our torch operators to our nodes."""
    import torch
    from onnxscript.values import Opset

    import model.ops  # noqa: F401  (registers torch.ops.hindsight)

    register_schemas()
    opset = Opset(DOMAIN, DOMAIN_VERSION)

    def multilevel_roi_align(
        features: Sequence[Any],
        rois: Any,
        strides: Sequence[int],
        output_size: int,
        sampling_ratio: int,
        aligned: bool,
    ) -> Any:
        node = getattr(opset, roi_align_name(len(features)))
        return node(
            rois,
            *features,
            strides=list(strides),
            output_size=output_size,
            sampling_ratio=max(sampling_ratio, 0),
            aligned=int(aligned),
            **PLUGIN_ATTRIBUTES,
        )

    return {
        torch.ops.hindsight.multilevel_roi_align.default: multilevel_roi_align,
        **onnx_nms.translations(opset),
        **onnx_deform.translations(opset),
    }


def multilevel_roi_align_function(levels: int) -> onnx.FunctionProto:
    """Body of MultilevelRoiAlign{levels}: each box is pooled once, on its own level.

    The boxes of a level are picked out (none is fine), pooled, the results concatenated and put back in the
    order of the boxes. `rois` [B, N, 4] in input pixels, features [B, C, h, w] each -> [B * N, C, s, s] of
    the features' type, as the torch operator does. It pools in float32: ONNX's RoiAlign has one type for
    boxes and features.
    """
    name = roi_align_name(levels)
    features = [f"feature_{level}" for level in range(levels)]
    if levels == 1:
        selection, ordering = "", "pooled = CastLike (pooled_0, feature_0)"
    else:
        selection = _level_assignment()
        ordering = f"""
            pooled_by_level = Concat <axis = 0> ({", ".join(f"pooled_{level}" for level in range(levels))})
            order = Concat <axis = 0> ({", ".join(f"rows_{level}" for level in range(levels))})
            places = ScatterElements <axis = 0> (all_rows, order, all_rows)
            pooled_in_order = Gather <axis = 0> (pooled_by_level, places)
            pooled = CastLike (pooled_in_order, feature_0)
        """
    poolings = "\n".join(_level_pooling(level, levels) for level in range(levels))
    return parse_function(
        f"""
        <domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
        {name} <strides, output_size, sampling_ratio, aligned, plugin_namespace, plugin_version>
            (rois, {", ".join(features)}) => (pooled)
        {{
            box_shape = Constant <value_ints: ints = [-1, 4]> ()
            boxes = Reshape (rois, box_shape)
            strides_int = Constant <value_ints: ints = @strides> ()
            strides_px = Cast <to = 1> (strides_int)
            zero = Constant <value_int: int = 0> ()
            one = Constant <value_int: int = 1> ()
            boxes_per_image_1d = Shape <start = 1, end = 2> (rois)
            boxes_per_image = Squeeze (boxes_per_image_1d)
            box_count_1d = Shape <start = 0, end = 1> (boxes)
            box_count = Squeeze (box_count_1d)
            all_rows = Range (zero, box_count, one)
            divisor = Max (boxes_per_image, one)
            image_of_row = Div (all_rows, divisor)
            aligned_int = Constant <value_int: int = @aligned> ()
            is_aligned = Cast <to = 9> (aligned_int)
            {selection}
            {poolings}
            {ordering}
        }}
        """
    )


def _level_assignment() -> str:
    """Statements that give `level_of_row` [B * N] int64: how many levels beyond the first a box reaches."""
    return f"""
        top_left, bottom_right = Split <axis = 1, num_outputs = 2> (boxes)
        sides = Sub (bottom_right, top_left)
        last_axis = Constant <value_ints: ints = [1]> ()
        areas = ReduceProd <keepdims = 1> (sides, last_axis)
        no_area = Constant <value_float: float = 0.0> ()
        positive_areas = Max (areas, no_area)
        side = Sqrt (positive_areas)
        slack = Constant <value_float: float = {_SIDE_SLACK!r}> ()
        side_with_slack = Mul (side, slack)
        side_per_stride = Constant <value_float: float = {_SIDE_PER_STRIDE!r}> ()
        least_side = Mul (strides_px, side_per_stride)
        second = Constant <value_ints: ints = [1]> ()
        past_end = Constant <value_ints: ints = [9223372036854775807]> ()
        least_side_above_first = Slice (least_side, second, past_end)
        big_enough = GreaterOrEqual (side_with_slack, least_side_above_first)
        big_enough_int = Cast <to = 7> (big_enough)
        level_of_row = ReduceSum <keepdims = 0> (big_enough_int, last_axis)
    """


def _level_pooling(level: int, levels: int) -> str:
    """Statements that give `rows_{level}` [n] and `pooled_{level}` [n, C, s, s], the boxes of one level."""
    mode = "coordinate_transformation_mode"
    sizes = "output_height: int = @output_size, output_width: int = @output_size"
    pool = f"RoiAlign <{sizes}, sampling_ratio: int = @sampling_ratio, spatial_scale = 1.0, {mode} = "
    operands = f"(wide_{level}, scaled_{level}, image_{level})"
    if levels == 1:
        pick = f"boxes_{level} = Identity (boxes)\nimage_{level} = Identity (image_of_row)"
    else:
        pick = f"""
            level_{level} = Constant <value_int: int = {level}> ()
            here_{level} = Equal (level_of_row, level_{level})
            rows_2d_{level} = NonZero (here_{level})
            rows_axis_{level} = Constant <value_ints: ints = [0]> ()
            rows_{level} = Squeeze (rows_2d_{level}, rows_axis_{level})
            boxes_{level} = Gather <axis = 0> (boxes, rows_{level})
            image_{level} = Gather <axis = 0> (image_of_row, rows_{level})
        """
    # The boxes are divided by the stride because spatial_scale, a float, cannot refer to the list `strides`.
    return f"""
        {pick}
        wide_{level} = Cast <to = 1> (feature_{level})
        index_{level} = Constant <value_int: int = {level}> ()
        stride_{level} = Gather <axis = 0> (strides_px, index_{level})
        scaled_{level} = Div (boxes_{level}, stride_{level})
        pooled_{level} = If (is_aligned) <
            then_branch = pool_half_pixel_{level} () => (aligned_{level}) {{
                aligned_{level} = {pool}"half_pixel"> {operands}
            }},
            else_branch = pool_whole_pixel_{level} () => (unaligned_{level}) {{
                unaligned_{level} = {pool}"output_half_pixel"> {operands}
            }}
        >
    """


def _roi_align_schema(levels: int) -> OpSchema:
    attribute = OpSchema.Attribute
    integer = OpSchema.AttrType.INT
    return OpSchema(
        roi_align_name(levels),
        DOMAIN,
        DOMAIN_VERSION,
        doc="RoIAlign of every box on the feature level that suits its size.",
        inputs=[
            OpSchema.FormalParameter("rois", "T", "[B, N, 4] xyxy in input pixels"),
            *(OpSchema.FormalParameter(f"feature_{level}", "F", "[B, C, h, w]") for level in range(levels)),
        ],
        outputs=[OpSchema.FormalParameter("pooled", "F", "[B * N, C, output_size, output_size]")],
        type_constraints=[
            ("T", ["tensor(float)"], "boxes"),
            ("F", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "features"),
        ],
        attributes=[
            attribute("strides", OpSchema.AttrType.INTS, required=True),
            attribute("output_size", integer, required=True),
            attribute("sampling_ratio", integer, required=True),
            attribute("aligned", integer, required=True),
            *plugin_attributes(),
        ],
    )
