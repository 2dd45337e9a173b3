"""Layouts are told by their keys, every key has its place, and what does not fit is counted and named."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from model import boxes as box_ops
from model.anchors import cell_anchors
from model.checkpoint import CheckpointError
from model.convert import Conventions, convert
from model.convert.mmdetection import convert as convert_mmdetection
from tests.parity.mmdetection_reference import (
    BLOCKS,
    CHANNELS,
    CLASSES,
    WIDTH,
    backbone_shapes,
    detector_shapes,
)

FASTER = detector_shapes(None, class_specific=True)
CASCADE = detector_shapes(3, class_specific=False)


# two convolutions of six channels
MASKS: dict[str, tuple[int, ...]] = {
    "roi_head.mask_head.convs.0.conv.weight": (6, CHANNELS, 3, 3),
    "roi_head.mask_head.convs.0.conv.bias": (6,),
    "roi_head.mask_head.convs.1.conv.weight": (6, 6, 3, 3),
    "roi_head.mask_head.convs.1.conv.bias": (6,),
    "roi_head.mask_head.upsample.weight": (6, 6, 2, 2),
    "roi_head.mask_head.upsample.bias": (6,),
    "roi_head.mask_head.conv_logits.weight": (CLASSES, 6, 1, 1),
    "roi_head.mask_head.conv_logits.bias": (CLASSES,),
}


def zeros(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A state dict of these shapes, without the memory."""
    return {key: torch.zeros(1).expand(shape) if shape else torch.tensor(0) for key, shape in shapes.items()}


def complaint(state: dict[str, Tensor], conventions: Conventions | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        convert(state, conventions)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def faster() -> dict[str, Tensor]:
    """Each weight is told apart by its values."""
    torch.manual_seed(0)
    return {key: torch.randn(shape) if shape else torch.tensor(0) for key, shape in FASTER.items()}


# mmdetection's key -> ours, for one of each kind; shapes are checked for all of them by loading
PLACES = {
    "backbone.conv1.weight": "backbone.conv1.weight",
    "backbone.layer3.0.downsample.1.running_var": "backbone.layer3.0.downsample.1.running_var",
    "neck.lateral_convs.2.conv.weight": "fpn.lateral.2.weight",
    "neck.fpn_convs.0.conv.bias": "fpn.output.0.bias",
    "rpn_head.rpn_conv.weight": "rpn.conv.weight",
    "rpn_head.rpn_cls.bias": "rpn.objectness.bias",
    "rpn_head.rpn_reg.weight": "rpn.deltas.weight",
    "roi_head.bbox_head.shared_fcs.0.weight": "head.trunk.fc1.weight",
    "roi_head.bbox_head.shared_fcs.1.bias": "head.trunk.fc2.bias",
    "roi_head.bbox_head.fc_cls.weight": "head.logits.weight",  # background is the last row in both
    "roi_head.bbox_head.fc_reg.weight": "head.deltas.weight",
}


def test_every_mmdetection_weight_has_its_place(faster: dict[str, Tensor]) -> None:
    converted = convert(faster)
    assert converted.layout == "mmdetection Faster R-CNN"
    own = converted.detector.state_dict()
    for theirs, ours in PLACES.items():
        assert torch.equal(own[ours], faster[theirs]), theirs
    assert len(own) == len(faster)
    config = converted.detector.config
    assert (config.num_classes, config.head.width, config.backbone.fpn_channels) == (CLASSES, WIDTH, CHANNELS)
    assert config.head.class_specific_first and not converted.detector.training


def test_a_cascade_is_told_by_its_numbered_heads() -> None:
    converted = convert(zeros(CASCADE))
    config = converted.detector.config
    assert converted.layout == "mmdetection Cascade R-CNN"
    assert (config.head.kind, config.head.stages, config.head.average) == ("cascade", 3, "logits")
    assert len(converted.detector.state_dict()) == len(CASCADE)


def test_masks_come_with_a_mask_r_cnn(faster: dict[str, Tensor]) -> None:
    masks = {key: torch.randn(shape) for key, shape in MASKS.items()}
    converted = convert(faster | masks)
    assert converted.layout == "mmdetection Mask R-CNN"
    config = converted.detector.config.mask
    assert config is not None
    assert (config.convs, config.channels, config.pooling.output_size) == (2, 6, 14)
    assert config.pooling.aligned and config.pooling.sampling_ratio == 0
    own = converted.detector.state_dict()
    assert len(own) == len(FASTER) + len(MASKS)
    for theirs, ours in {
        "convs.1.conv.weight": "convs.1.weight",
        "upsample.bias": "upsample.bias",
        "conv_logits.weight": "logits.weight",  # a row for each class and none for the background, as ours
    }.items():
        assert torch.equal(own[f"mask.{ours}"], masks[f"roi_head.mask_head.{theirs}"])


def test_the_prefix_of_distributed_training_is_taken_off(faster: dict[str, Tensor]) -> None:
    wrapped = {f"module.{key}": value for key, value in faster.items()}
    converted = convert(wrapped)
    assert torch.equal(
        converted.detector.state_dict()["head.logits.bias"], faster["roi_head.bbox_head.fc_cls.bias"]
    )


def test_deformable_convolutions_are_told_by_their_offsets() -> None:
    for rows, version in ((18, "v1"), (27, "v2")):
        shapes = dict(FASTER)
        for stage, blocks in list(enumerate(BLOCKS))[1:]:
            width = 64 * 2**stage
            for block in range(blocks):
                name = f"backbone.layer{stage + 1}.{block}.conv2.conv_offset"
                shapes |= {f"{name}.weight": (rows, width, 3, 3), f"{name}.bias": (rows,)}
        assert convert(zeros(shapes)).detector.config.backbone.deformable == version


def test_the_caffe_style_reads_rgb_strides_early_and_divides_by_nothing(faster: dict[str, Tensor]) -> None:
    detector = convert(faster, Conventions(caffe=True)).detector
    assert torch.equal(detector.backbone.conv1.weight, faster["backbone.conv1.weight"][:, [2, 1, 0]])  # type: ignore[union-attr]
    torch.testing.assert_close(detector.pixel_mean, torch.tensor([123.675, 116.28, 103.53]))
    torch.testing.assert_close(detector.pixel_std, torch.ones(3))
    block = detector.backbone.layer2[0]  # type: ignore[union-attr,index]
    assert block.conv1.stride == (2, 2) and block.conv2.stride == (1, 1)


def test_means_and_stds_of_255_are_ours_of_1(faster: dict[str, Tensor]) -> None:
    detector = convert(faster).detector
    torch.testing.assert_close(detector.pixel_mean, torch.tensor([123.675, 116.28, 103.53]))
    torch.testing.assert_close(detector.pixel_std, torch.tensor([58.395, 57.12, 57.375]))


def test_anchors_are_neither_rounded_nor_moved() -> None:
    """8 x stride squared, by ratio = height / width, about multiples of the stride: no half pixel."""
    anchors = cell_anchors([32], [0.5, 1.0, 2.0], rounded=False)
    wide, tall = 32 * math.sqrt(2) / 2, 32 / math.sqrt(2) / 2
    torch.testing.assert_close(
        anchors,
        torch.tensor([[-wide, -tall, wide, tall], [-16.0, -16, 16, 16], [-tall, -wide, tall, wide]]),
    )
    assert not torch.equal(anchors, cell_anchors([32], [0.5, 1.0, 2.0], rounded=True))


def test_a_step_is_bounded_in_both_directions() -> None:
    """mmdetection clamps dw, dh to +-log(1000 / 16); torchvision, and we by default, from above only."""
    box = torch.tensor([[100.0, 100.0, 200.0, 200.0]])
    ones = (1.0, 1.0, 1.0, 1.0)
    for direction, bound in ((9.0, 62.5), (-9.0, 1 / 62.5)):
        deltas = torch.tensor([[0.0, 0.0, direction, direction]])
        moved = box_ops.decode(box, deltas, ones, shrink_limited=True)
        torch.testing.assert_close(moved[0, 2] - moved[0, 0], torch.tensor(100 * bound), rtol=1e-3, atol=1e-3)
    free = box_ops.decode(box, torch.tensor([[0.0, 0.0, -9.0, -9.0]]), ones)
    assert float(free[0, 2] - free[0, 0]) < 0.02


def test_delta_means_end_up_in_the_biases(faster: dict[str, Tensor]) -> None:
    means, stds = (0.1, -0.2, 0.3, 0.05), (0.1, 0.1, 0.2, 0.2)
    detector = convert(faster, Conventions(delta_means=means, delta_stds=(stds,) * 3)).detector
    raw = faster["roi_head.bbox_head.fc_reg.bias"].reshape(CLASSES, 4)
    ours = detector.state_dict()["head.deltas.bias"].reshape(CLASSES, 4)
    torch.testing.assert_close(ours * torch.tensor(stds), raw * torch.tensor(stds) + torch.tensor(means))


def test_the_epsilon_of_batch_norms_is_taken_over(faster: dict[str, Tensor]) -> None:
    for norm_eps, expected in ((None, 1e-5), (0.0, 0.0)):
        backbone = convert(faster, Conventions(norm_eps=norm_eps)).detector.backbone
        found = {m.eps for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)}
        assert found == {expected}


def without(key: str) -> dict[str, Tensor]:
    return {k: v for k, v in zeros(FASTER).items() if k != key}


STAGE_MASKS = {"roi_head.mask_head.0.convs.0.conv.weight": (256, CHANNELS, 3, 3)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "0 weights of an unknown layout (first: none); tried: torchvision v1/v2"),
        (
            zeros({"a.weight": (1,), "b": (2,)}),
            "2 weights of an unknown layout (first: 'a.weight', 'b'); tried",
        ),
        (
            zeros(FASTER | {"roi_head.extra": (1,), "x.y": (2,)}),
            "not a whole mmdetection Faster R-CNN detector: 2 unexpected keys (first: roi_head.extra, x.y), "
            "0 missing keys",
        ),
        (without("rpn_head.rpn_conv.bias"), "0 unexpected keys, 1 missing keys (first: rpn.conv.bias)"),
        (without("rpn_head.rpn_cls.weight"), "weight 'rpn_head.rpn_cls.weight' is missing"),
        (
            zeros(FASTER | {"rpn_head.rpn_conv.bias": (9,)}),
            "1 weights of this mmdetection Faster R-CNN detector have another shape than expected, "
            "the first: rpn.conv.bias is (9,), expected (8,)",
        ),
        (
            zeros(FASTER | {"rpn_head.rpn_cls.weight": (9, CHANNELS, 1, 1)}),
            "the RPN has 9 anchors a position",
        ),
        (without("backbone.layer4.2.conv3.weight"), "unknown backbone: (3, 4, 6, 2) bottlenecks"),
        (
            zeros(CASCADE | STAGE_MASKS),
            "a mask head (1 weights, first: roi_head.mask_head.0.convs.0.conv.weight)",
        ),
        (zeros(CASCADE | {"roi_head.semantic_head.convs.0.conv.weight": (1,)}), "an HTC detector"),
        (zeros(FASTER | {"bbox_head.fc_cls.weight": (81, 1024)}), "an mmdetection 1 detector"),
        (
            zeros(detector_shapes(3, class_specific=True)),
            "a cascade with class-specific regression can't be brought in",
        ),
        (zeros(FASTER | {"backbone.layer2.0.conv2.conv_offset.bias": (54,)}), "with [54] offsets"),
        (
            zeros({**detector_shapes(5, class_specific=False)}),
            "head.stages must be 1..3, got 5",
        ),
    ],
)
def test_what_does_not_fit_is_counted_and_named(state: dict[str, Tensor], message: str) -> None:
    assert message in complaint(state)


def test_a_mask_head_is_left_out_on_request() -> None:
    for boxes, masks in ((FASTER, MASKS), (CASCADE, STAGE_MASKS)):
        converted = convert_mmdetection(zeros(boxes | masks), Conventions(boxes_only=True))
        assert len(converted.detector.state_dict()) == len(boxes)


def test_caffe_style_is_not_torchvisions() -> None:
    shapes = {
        f"backbone.body.{key.removeprefix('backbone.')}": shape for key, shape in backbone_shapes().items()
    }
    state = zeros(shapes | {"backbone.fpn.inner_blocks.0.0.weight": (8, 256, 1, 1)})
    assert "--style caffe is mmdetection's" in complaint(state, Conventions(caffe=True))
    assert "is missing, which tells the model's shape" in complaint(state)
