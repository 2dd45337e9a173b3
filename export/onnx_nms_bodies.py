"""Bodies of the suppression operators: ONNX functions of standard operators, for runtimes without plugins.

Shapes: G groups of boxes, N boxes a group, K classes, P boxes kept in all groups and classes together.
Boxes are xyxy; scores of -inf mean "absent".
"""

import onnx

from export.onnx_domain import DOMAIN, OPSET, parse_function

_LOWEST_FLOAT = -3.4028234663852886e38
_HEADER = f"""<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>"""
_CONSTANTS = """
    minus_infinity = Constant <value: tensor = float {-inf}> ()
    no_length = Constant <value_float: float = 0.0> ()
    smallest_union = Constant <value_float: float = 1e-9> ()
"""


def batched_nms_function(name: str) -> onnx.FunctionProto:
    """Body of BatchedNms: boxes [G, N, 4], scores [G, K, N], threshold [1] -> keep mask, bool [G, K, N].

    Each class of each group is suppressed alone. Scores may be logits; only -inf means "never kept".
    """
    return parse_function(
        f"""
        {_HEADER}
        {name} <plugin_namespace, plugin_version> (boxes, scores, threshold) => (keep)
        {{
            {_hard_suppression("scores")}
        }}
        """
    )


def _hard_suppression(scores: str) -> str:
    """Statements that give `picked` [P, 3] (group, class, row) and the mask `keep` [G, K, N]."""
    return f"""
        no_limit = Constant <value_int: int = 9223372036854775807> ()
        lowest = Constant <value_float: float = {_LOWEST_FLOAT!r}> ()
        picked = NonMaxSuppression (boxes, {scores}, no_limit, threshold, lowest)
        shape = Shape ({scores})
        nothing = ConstantOfShape <value: tensor = bool[1] {{0}}> (shape)
        picked_shape = Shape <start = 0, end = 1> (picked)
        yes = ConstantOfShape <value: tensor = bool[1] {{1}}> (picked_shape)
        keep = ScatterND (nothing, picked, yes)
    """


def soft_nms_function(name: str) -> onnx.FunctionProto:
    """Body of SoftNms: boxes [G, N, 4], scores [G, K, N], threshold [1] -> decayed scores [G, K, N].

    A loop of at most `steps` rounds, which ends once no list has a box left. In each round every list's best
    box is picked and the others decay. One absent box is put behind the real ones, so that there is always
    one to look at.
    """
    return parse_function(
        f"""
        {_HEADER}
        {name} <method, sigma, min_score, steps, plugin_namespace, plugin_version>
            (boxes, scores, threshold) => (decayed)
        {{
            {_CONSTANTS}
            one = Constant <value_float: float = 1.0> ()
            row_axis = Constant <value_ints: ints = [2]> ()
            four = Constant <value_ints: ints = [1, 1, 4]> ()
            least = Constant <value_float: float = @min_score> ()
            spread = Constant <value_float: float = @sigma> ()
            rounds = Constant <value_int: int = @steps> ()
            asked = Constant <value_string: string = @method> ()
            gaussian = Constant <value_string: string = "gaussian"> ()
            is_gaussian = Equal (asked, gaussian)

            box_pads = Constant <value_ints: ints = [0, 0, 0, 0, 1, 0]> ()
            score_pads = Constant <value_ints: ints = [0, 0, 0, 0, 0, 1]> ()
            all_boxes = Pad (boxes, box_pads)
            all_scores = Pad (scores, score_pads, minus_infinity)
            coordinates = Transpose <perm = [0, 2, 1]> (all_boxes)
            {_corners("box", "coordinates", axis=1)}
            good_enough = GreaterOrEqual (all_scores, least)
            first_left = Where (good_enough, all_scores, minus_infinity)
            shape = Shape (all_scores)
            first_picked = Expand (minus_infinity, shape)
            highest = ReduceMax <keepdims = 0> (first_left)
            any_left = Greater (highest, minus_infinity)
            all_picked, last_left = Loop (rounds, any_left, first_picked, first_left) <
                body = round (int64 index, bool go_on, float[g, k, n] picked, float[g, k, n] left)
                    => (bool still_left, float[g, k, n] new_picked, float[g, k, n] new_left) {{
                    {_soft_round()}
                }}
            >
            first_row = Constant <value_ints: ints = [0]> ()
            last_row = Constant <value_ints: ints = [-1]> ()
            decayed = Slice (all_picked, first_row, last_row, row_axis)
        }}
        """
    )


def _soft_round() -> str:
    """Statements of one round: from `picked`, `left` [G, K, N] to `new_picked`, `new_left`, `still_left`."""
    return f"""
        score = ReduceMax <keepdims = 1> (left, row_axis)
        best = ArgMax <axis = 2, keepdims = 1> (left)
        new_picked = ScatterElements <axis = 2, reduction = "max"> (picked, best, score)
        best_four = Expand (best, four)
        best_boxes = GatherElements <axis = 1> (all_boxes, best_four)
        {_corners("best", "best_boxes", axis=2)}
        {_iou("best", "box")}
        factor = If (is_gaussian) <
            then_branch = by_gaussian () => (gaussian_factor) {{
                squared = Mul (iou, iou)
                scaled = Div (squared, spread)
                exponent = Neg (scaled)
                gaussian_factor = Exp (exponent)
            }},
            else_branch = by_line () => (linear_factor) {{
                overlaps = Greater (iou, threshold)
                rest = Sub (one, iou)
                linear_factor = Where (overlaps, rest, one)
            }}
        >
        product = Mul (left, factor)
        stays = GreaterOrEqual (product, least)
        survivors = Where (stays, product, minus_infinity)
        best_shape = Shape (best)
        gone = Expand (minus_infinity, best_shape)
        new_left = ScatterElements <axis = 2> (survivors, best, gone)
        new_highest = ReduceMax <keepdims = 0> (new_left)
        still_left = Greater (new_highest, minus_infinity)
    """


def iou_guided_nms_function(name: str) -> onnx.FunctionProto:
    """Body of IouGuidedNms: boxes [G, N, 4], class scores [G, K, N], predicted IoUs [G, N], threshold [1]
    -> keep mask, bool [G, K, N], and scores [G, K, N], -inf where not kept.

    Hard suppression by place (0 = highest predicted IoU) says which boxes are kept; each of the P kept boxes
    claims the rows of its list that it overlaps; a row goes to the claim of the lowest place; the best class
    score of what went to a place is the score of the box kept there.
    """
    return parse_function(
        f"""
        {_HEADER}
        {name} <plugin_namespace, plugin_version> (boxes, class_scores, ious, threshold) => (keep, scores)
        {{
            {_CONSTANTS}
            zero = Constant <value_int: int = 0> ()
            one = Constant <value_int: int = 1> ()
            axis_1 = Constant <value_ints: ints = [1]> ()
            axis_2 = Constant <value_ints: ints = [2]> ()
            count_1d = Shape <start = 1, end = 2> (ious)
            count = Squeeze (count_1d)
            rows = Range (zero, count, one)
            sorted_ious, order = TopK <axis = 1> (ious, count_1d)
            ious_shape = Shape (ious)
            places_in_order = Expand (rows, ious_shape)
            places = ScatterElements <axis = 1> (places_in_order, order, places_in_order)
            list_places = Unsqueeze (places, axis_1)
            float_places = Cast <to = 1> (list_places)
            minus_places = Neg (float_places)
            present = Greater (class_scores, minus_infinity)
            ranked = Where (present, minus_places, minus_infinity)
            {_hard_suppression("ranked")}
            {_claims()}
            {_cluster_scores()}
        }}
        """
    )


def _claims() -> str:
    """Statements that give `claims` [P, N]: the place of a kept box where it claims a row, N elsewhere."""
    return f"""
        group_and_row = Constant <value_ints: ints = [0, 2]> ()
        keeper = Gather <axis = 1> (picked, group_and_row)
        group = Gather <axis = 1> (picked, zero)
        keeper_row = Gather <axis = 1> (picked, axis_2)
        keeper_box = GatherND (boxes, keeper)
        keeper_coordinates = Unsqueeze (keeper_box, axis_2)
        {_corners("keeper", "keeper_coordinates", axis=1)}
        coordinates = Transpose <perm = [0, 2, 1]> (boxes)
        list_coordinates = Gather <axis = 0> (coordinates, group)
        {_corners("box", "list_coordinates", axis=1)}
        {_iou("keeper", "box")}
        overlaps_3d = Greater (iou, threshold)
        overlaps = Squeeze (overlaps_3d, axis_1)
        is_itself = Equal (keeper_row, rows)
        is_claimed = Or (overlaps, is_itself)
        place = GatherND (places, keeper)
        keeper_place = Unsqueeze (place, axis_1)
        claims = Where (is_claimed, keeper_place, count)
    """


def _cluster_scores() -> str:
    """Statements that give `scores` [G, K, N] from `claims`: lowest claim of each row, best row of each."""
    return """
        klass = Gather <axis = 1> (picked, one)
        groups_1d = Shape <start = 0, end = 1> (class_scores)
        classes_1d = Shape <start = 1, end = 2> (class_scores)
        first_list = Mul (group, classes_1d)
        list_of_keeper = Add (first_list, klass)
        list_column = Unsqueeze (list_of_keeper, axis_1)
        claims_shape = Shape (claims)
        list_of_claim = Expand (list_column, claims_shape)
        lists_1d = Mul (groups_1d, classes_1d)
        lists_shape = Concat <axis = 0> (lists_1d, count_1d)
        nobody = Expand (count, lists_shape)
        owner_by_list = ScatterElements <axis = 0, reduction = "min"> (nobody, list_of_claim, claims)
        owner = Reshape <allowzero = 1> (owner_by_list, shape)
        slots = Add (count_1d, one)
        slots_shape = Concat <axis = 0> (groups_1d, classes_1d, slots)
        no_score = Expand (minus_infinity, slots_shape)
        best_of_place = ScatterElements <axis = 2, reduction = "max"> (no_score, owner, class_scores)
        place_of_row = Expand (list_places, shape)
        cluster_scores = GatherElements <axis = 2> (best_of_place, place_of_row)
        scores = Where (keep, cluster_scores, minus_infinity)
    """


def _corners(name: str, coordinates: str, axis: int) -> str:
    """Statements that split boxes into `{name}_x1`, `_y1`, `_x2`, `_y2` along `axis`, and `{name}_area`."""
    return f"""
        {name}_x1, {name}_y1, {name}_x2, {name}_y2 = Split <axis = {axis}, num_outputs = 4> ({coordinates})
        {_area(name)}
    """


def _area(name: str) -> str:
    """Statements that give `{name}_area` from the corners; an inverted box has none."""
    return f"""
        {name}_raw_width = Sub ({name}_x2, {name}_x1)
        {name}_raw_height = Sub ({name}_y2, {name}_y1)
        {name}_width = Max ({name}_raw_width, no_length)
        {name}_height = Max ({name}_raw_height, no_length)
        {name}_area = Mul ({name}_width, {name}_height)
    """


def _iou(first: str, second: str) -> str:
    """Statements that give `iou` of boxes split by `_corners`, broadcast; 0 where both are empty."""
    return f"""
        inner_x1 = Max ({first}_x1, {second}_x1)
        inner_y1 = Max ({first}_y1, {second}_y1)
        inner_x2 = Min ({first}_x2, {second}_x2)
        inner_y2 = Min ({first}_y2, {second}_y2)
        {_area("inner")}
        both_areas = Add ({first}_area, {second}_area)
        union = Sub (both_areas, inner_area)
        safe_union = Max (union, smallest_union)
        iou = Div (inner_area, safe_union)
    """
