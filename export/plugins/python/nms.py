"""BatchedNms, IouGuidedNms and SoftNms: one launch of the kernel of the same name each.

Shapes: G groups, K classes, N boxes a group; G * K lists. Boxes float32 [G, N, 4], scores float32 [G, K, N],
predicted IoUs float32 [G, N], threshold float32 [1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from export.plugins.python.attributes import Kinds
from export.plugins.python.operator import (
    BOOL,
    FLOAT,
    LINEAR,
    Sizes,
    Tensor,
    Value,
    Work,
    check_addresses,
    check_count,
    check_rank,
    check_same,
    check_size,
)
from model.kernels.params import NmsParams, SoftNmsParams, nms_launch, soft_nms_launch

KEY_BYTES = 8
METHODS = ("linear", "gaussian")


class _Suppression:
    """What the three share: types, shapes and workspace."""

    name: ClassVar[str]
    source: ClassVar[str]
    kinds: ClassVar[Kinds] = {}
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __init__(self, values: Mapping[str, Value]) -> None:
        self.values = dict(values)

    def attributes(self) -> Mapping[str, Value]:
        return self.values

    def output_types(self, types: Sequence[str]) -> list[str]:
        check_count(self.name, self.inputs, types)
        for name, found in zip(self.inputs, types, strict=True):
            if found != FLOAT:
                raise ValueError(f"{self.name}: expected {name} of type FLOAT, got {found}")
        return [_type_of(output) for output in self.outputs]

    def output_shapes(self, shapes: Sequence[Sequence[Any]], sizes: Sizes) -> list[list[Any]]:
        for name, shape in zip(self.inputs, shapes, strict=True):
            rank, meaning = _SHAPES[name]
            check_rank(self.name, name, shape, rank, meaning)
        boxes, scores, threshold = shapes[0], shapes[1], shapes[-1]
        check_size(self.name, sizes, "the last size of boxes", boxes[2], 4)
        check_size(self.name, sizes, "the size of threshold", threshold[0], 1)
        check_same(self.name, sizes, "groups of boxes and scores", boxes[0], scores[0])
        check_same(self.name, sizes, "counts of boxes and scores", boxes[1], scores[2])
        if "ious" in self.inputs:
            check_same(self.name, sizes, "groups of boxes and ious", boxes[0], shapes[2][0])
            check_same(self.name, sizes, "counts of boxes and ious", boxes[1], shapes[2][1])
        return [list(scores) for _ in self.outputs]

    def supports(self, position: int, tensors: Sequence[Tensor]) -> bool:
        names = (*self.inputs, *self.outputs)
        return (tensors[position].dtype, tensors[position].format) == (_type_of(names[position]), LINEAR)

    def workspace_bytes(self, shapes: Sequence[tuple[int, ...]]) -> int:
        groups, classes, count = shapes[1]
        lists = groups * classes
        return lists * nms_launch(lists, count).spill_keys * KEY_BYTES

    def _sizes(self, inputs: Sequence[Tensor]) -> tuple[int, int, int]:
        """G, K, N. Raises ValueError where tensors disagree: the kernels trust shapes."""
        groups, classes, count = inputs[1].shape
        known = {"boxes": (groups, count, 4), "ious": (groups, count), "threshold": (1,)}
        for name, tensor in zip(self.inputs, inputs, strict=True):
            if name in known and tensor.shape != known[name]:
                expected = list(known[name])
                raise ValueError(f"{self.name}: expected {name} {expected}, got {list(tensor.shape)}")
        return groups, classes, count


class _Greedy(_Suppression):
    """BatchedNms and IouGuidedNms."""

    def plan(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Work | None:
        if outputs[0].volume == 0:
            return None
        groups, classes, count = self._sizes(inputs)
        chosen = nms_launch(groups * classes, count)
        params = NmsParams(
            classes=classes, count=count, shared_keys=chosen.shared_keys, spill_keys=chosen.spill_keys
        )
        return Work(self.source, params, chosen)

    def bind(self, params: NmsParams, inputs: Sequence[int], outputs: Sequence[int], workspace: int) -> None:
        check_addresses(self.name, self.inputs[:1], inputs[:1])
        params.boxes, params.scores, params.threshold = inputs[0], inputs[1], inputs[-1]
        params.keep = outputs[0]
        if "ious" in self.inputs:
            params.ious, params.kept_scores = inputs[2], outputs[1]
        params.spill = workspace


class BatchedNms(_Greedy):
    """boxes, scores, threshold -> keep bool [G, K, N]."""

    name, source = "BatchedNms", "batched_nms"
    inputs, outputs = ("boxes", "scores", "threshold"), ("keep",)


class IouGuidedNms(_Greedy):
    """boxes, class_scores, ious, threshold -> keep bool [G, K, N], scores float32 [G, K, N]."""

    name, source = "IouGuidedNms", "iou_guided_nms"
    inputs, outputs = ("boxes", "class_scores", "ious", "threshold"), ("keep", "scores")


class SoftNms(_Suppression):
    """boxes, scores, threshold -> decayed scores float32 [G, K, N]."""

    name, source = "SoftNms", "soft_nms"
    inputs, outputs = ("boxes", "scores", "threshold"), ("decayed",)
    kinds: ClassVar[Kinds] = {"method": str, "sigma": float, "min_score": float, "steps": int}

    def __init__(self, values: Mapping[str, Value]) -> None:
        super().__init__(values)
        method, sigma, steps = values["method"], values["sigma"], values["steps"]
        if method not in METHODS:
            raise ValueError(f"SoftNms: expected method to be {' or '.join(METHODS)}, got {method!r}")
        if method == "gaussian" and not (isinstance(sigma, float) and sigma > 0):
            raise ValueError(f"SoftNms: expected sigma above 0, got {sigma}")
        if not (isinstance(steps, int) and steps >= 0):
            raise ValueError(f"SoftNms: expected steps of 0 or more, got {steps}")

    def plan(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Work | None:
        if outputs[0].volume == 0:
            return None
        groups, classes, count = self._sizes(inputs)
        chosen = soft_nms_launch(groups * classes, count)
        params = SoftNmsParams(
            classes=classes,
            count=count,
            shared_keys=chosen.shared_keys,
            spill_keys=chosen.spill_keys,
            steps=self.values["steps"],
            gaussian=int(self.values["method"] == "gaussian"),
            sigma=self.values["sigma"],
            min_score=self.values["min_score"],
        )

        return Work(self.source, params, chosen)

    def bind(
        self, params: SoftNmsParams, inputs: Sequence[int], outputs: Sequence[int], workspace: int
    ) -> None:
        check_addresses(self.name, self.inputs[:1], inputs[:1])
        params.boxes, params.scores, params.threshold = inputs
        params.decayed = outputs[0]
        params.spill = workspace


_SHAPES = {
    "boxes": (3, "[G, N, 4]"),
    "scores": (3, "[G, K, N]"),
    "class_scores": (3, "[G, K, N]"),
    "ious": (2, "[G, N]"),
    "threshold": (1, "[1]"),
}


def _type_of(name: str) -> str:
    return BOOL if name == "keep" else FLOAT
