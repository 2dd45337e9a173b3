"""mmdetection's two-stage detectors at inference, by its documented conventions, one image at a time.

The library's operators do not build here, so this stands in for it: written apart from our detector, with
torchvision's operators, and run on a state dict of its layout whose keys and shapes are written out below.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

CHANNELS, WIDTH, CLASSES = 8, 16, 3
BLOCKS = (3, 4, 6, 3)
STAGE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BGR_MEAN = (103.53, 116.28, 123.675)

Shapes = dict[str, tuple[int, ...]]


def _norm(name: str, channels: int) -> Shapes:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def backbone_shapes() -> Shapes:
    """ResNet-50 as mmdetection names it."""
    shapes: Shapes = {"backbone.conv1.weight": (64, 3, 7, 7)} | _norm("backbone.bn1", 64)
    inputs = 64
    for stage, blocks in enumerate(BLOCKS):
        width = 64 * 2**stage
        for block in range(blocks):
            name = f"backbone.layer{stage + 1}.{block}"
            shapes |= {
                f"{name}.conv1.weight": (width, inputs, 1, 1),
                f"{name}.conv2.weight": (width, width, 3, 3),
                f"{name}.conv3.weight": (4 * width, width, 1, 1),
            }
            shapes |= _norm(f"{name}.bn1", width) | _norm(f"{name}.bn2", width)
            shapes |= _norm(f"{name}.bn3", 4 * width)
            if block == 0:
                shapes |= {f"{name}.downsample.0.weight": (4 * width, inputs, 1, 1)}
                shapes |= _norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    return shapes


def _layer(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def detector_shapes(stages: int | None, *, class_specific: bool) -> Shapes:
    """Faster R-CNN (`stages` None) or Cascade R-CNN, at toy width behind a whole ResNet-50."""
    shapes = backbone_shapes()
    for level in range(4):
        shapes |= _layer(f"neck.lateral_convs.{level}.conv", CHANNELS, 256 * 2**level, 1, 1)
        shapes |= _layer(f"neck.fpn_convs.{level}.conv", CHANNELS, CHANNELS, 3, 3)
    shapes |= _layer("rpn_head.rpn_conv", CHANNELS, CHANNELS, 3, 3)
    shapes |= _layer("rpn_head.rpn_cls", 3, CHANNELS, 1, 1) | _layer("rpn_head.rpn_reg", 12, CHANNELS, 1, 1)
    heads = ["roi_head.bbox_head"] if stages is None else [f"roi_head.bbox_head.{k}" for k in range(stages)]
    for head in heads:
        shapes |= _layer(f"{head}.shared_fcs.0", WIDTH, CHANNELS * 49)
        shapes |= _layer(f"{head}.shared_fcs.1", WIDTH, WIDTH)
        shapes |= _layer(f"{head}.fc_cls", CLASSES + 1, WIDTH)
        shapes |= _layer(f"{head}.fc_reg", 4 * CLASSES if class_specific else 4, WIDTH)
    return shapes


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Weights under which maps keep their size on the way up."""
    torch.manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif name.endswith("running_var"):
            state[name] = torch.empty(shape).uniform_(0.5, 1.5)
        elif len(shape) == 1:
            state[name] = torch.randn(shape) * 0.1
            if name.endswith("weight"):  # a batch norm's scale; the sum of many blocks must not explode
                state[name] += 0.3 if ".bn3." in name else 1.0
        else:
            state[name] = torch.randn(shape) * math.sqrt(2 / math.prod(shape[1:]))
    return state


class Reference:
    """The detector. With `calibrate`, output layers are centred and rescaled as they are first reached."""

    def __init__(
        self,
        state: dict[str, Tensor],
        *,
        caffe: bool = False,
        means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0),
        stds: tuple[tuple[float, ...], ...] = STAGE_STDS,
        calibrate: bool = False,
    ) -> None:
        self.state, self.caffe, self.means, self.stds = state, caffe, means, stds
        self.uncalibrated = set(state) if calibrate else set()
        self.net = torchvision.models.resnet50(weights=None)
        own = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
        missing, unexpected = self.net.load_state_dict(own, strict=False)
        assert not unexpected and set(missing) == {"fc.weight", "fc.bias"}
        if caffe:  # the stride is in the first 1x1 convolution
            for stage in (self.net.layer2, self.net.layer3, self.net.layer4):
                stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
        self.net.eval()

    @torch.no_grad()
    def detect(self, image: Tensor) -> dict[str, Tensor]:
        """uint8 RGB [H, W, 3], sides multiples of 32 -> boxes [n, 4], scores [n], labels [n] from 0."""
        height, width = image.shape[:2]
        pyramid = self._pyramid(self._pixels(image))
        boxes = self._proposals(pyramid, height, width)
        if "roi_head.bbox_head.fc_cls.weight" in self.state:
            logits, deltas = self._head("roi_head.bbox_head", pyramid[:4], boxes)
            per_class = deltas.reshape(len(boxes), -1, 4)
            final = self._decode(boxes[:, None].expand_as(per_class), per_class, 0, height, width)
            return _per_class_nms(final.expand(-1, CLASSES, 4), logits.softmax(dim=1))
        stage_logits = []
        for stage in range(3):
            logits, deltas = self._head(f"roi_head.bbox_head.{stage}", pyramid[:4], boxes)
            stage_logits.append(logits)
            boxes = self._decode(boxes, deltas, stage, height, width)
        mean = sum(stage_logits) / 3
        assert isinstance(mean, Tensor)
        return _per_class_nms(boxes[:, None].expand(-1, CLASSES, 4), mean.softmax(dim=1))

    def _pixels(self, image: Tensor) -> Tensor:
        if self.caffe:
            pixels = image.flip(-1).float() - torch.tensor(BGR_MEAN)
        else:
            pixels = (image.float() - torch.tensor(RGB_MEAN)) / torch.tensor(RGB_STD)
        return pixels.permute(2, 0, 1)[None]

    def _pyramid(self, x: Tensor) -> list[Tensor]:
        net = self.net
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        laterals = []
        for level, stage in enumerate((net.layer1, net.layer2, net.layer3, net.layer4)):
            x = stage(x)
            laterals.append(self._conv(f"neck.lateral_convs.{level}.conv", x))
        for level in (2, 1, 0):
            above = F.interpolate(laterals[level + 1], size=laterals[level].shape[-2:], mode="nearest")
            laterals[level] = laterals[level] + above
        maps = [
            self._conv(f"neck.fpn_convs.{i}.conv", lateral, padding=1) for i, lateral in enumerate(laterals)
        ]
        return [*maps, F.max_pool2d(maps[-1], 1, stride=2)]

    def _proposals(self, pyramid: list[Tensor], height: int, width: int) -> Tensor:
        """The 1000 best of each level, suppressed level by level at .7, the 1000 best of those."""
        boxes, scores, levels = [], [], []
        for level, feature in enumerate(pyramid):
            hidden = F.relu(self._conv("rpn_head.rpn_conv", feature, padding=1))
            logits = self._final("rpn_head.rpn_cls", hidden, 2.0)[0].permute(1, 2, 0).reshape(-1)
            deltas = self._final("rpn_head.rpn_reg", hidden, 0.15)[0].permute(1, 2, 0).reshape(-1, 4)
            best, rows = logits.sigmoid().topk(min(1000, len(logits)))
            found = _step(
                _anchors(feature.shape[-2:], 4 * 2**level)[rows], deltas[rows], (0.0,) * 4, (1.0,) * 4
            )
            boxes.append(_clip(found, height, width))
            scores.append(best)
            levels.append(torch.full_like(rows, level))
        flat, ranked, groups = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        solid = ((flat[:, 2:] - flat[:, :2]) > 0).all(dim=1)
        flat, ranked, groups = flat[solid], ranked[solid], groups[solid]
        return flat[torchvision.ops.batched_nms(flat, ranked, groups, 0.7)[:1000]]

    def _head(self, name: str, maps: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        levels = torch.log2(sides / 56 + 1e-6).floor().clamp(0, 3).long()
        pooled = torch.zeros(len(boxes), CHANNELS, 7, 7)
        for level, feature in enumerate(maps):
            rows = torch.nonzero(levels == level).squeeze(1)
            if len(rows):
                scale = 1 / (4 * 2**level)
                pooled[rows] = torchvision.ops.roi_align(feature, [boxes[rows]], 7, scale, 0, aligned=True)
        hidden = pooled.flatten(1)
        for layer in range(2):
            key = f"{name}.shared_fcs.{layer}"
            hidden = F.relu(F.linear(hidden, self.state[f"{key}.weight"], self.state[f"{key}.bias"]))
        return self._final(f"{name}.fc_cls", hidden, 2.0), self._final(f"{name}.fc_reg", hidden, 0.7)

    def _decode(self, boxes: Tensor, deltas: Tensor, stage: int, height: int, width: int) -> Tensor:
        return _clip(_step(boxes, deltas, self.means, self.stds[stage]), height, width)

    def _conv(self, name: str, x: Tensor, padding: int = 0) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], padding=padding)

    def _final(self, name: str, hidden: Tensor, wanted_std: float) -> Tensor:
        """An output layer; calibrating, its outputs get mean 0 and `wanted_std` where they are first seen."""
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        if f"{name}.weight" in self.uncalibrated:
            self.uncalibrated.remove(f"{name}.weight")
            raw = F.conv2d(hidden, weight, bias) if hidden.dim() == 4 else F.linear(hidden, weight, bias)
            axes = (0, 2, 3) if hidden.dim() == 4 else (0,)
            mean = raw.mean(dim=axes)
            spread = (raw - mean.reshape(-1, *[1] * (raw.dim() - 2))).std()
            weight.mul_(wanted_std / spread)
            bias.sub_(mean).mul_(wanted_std / spread)
        return F.conv2d(hidden, weight, bias) if hidden.dim() == 4 else F.linear(hidden, weight, bias)


def _anchors(level_hw: torch.Size, stride: int) -> Tensor:
    """Boxes of side 8 * stride and ratios 1/2, 1, 2 (height / width) about multiples of the stride."""
    rows = []
    for y in range(level_hw[0]):
        for x in range(level_hw[1]):
            for ratio in (0.5, 1.0, 2.0):
                width, height = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                cx, cy = x * stride, y * stride
                rows.append([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2])
    return torch.tensor(rows)


def _step(boxes: Tensor, deltas: Tensor, means: tuple[float, ...], stds: tuple[float, ...]) -> Tensor:
    """Deltas are de-normalised first; a side grows or shrinks at most 1000 / 16 times."""
    moves = deltas * torch.tensor(stds) + torch.tensor(means)
    limit = abs(math.log(16 / 1000))
    wh = boxes[..., 2:] - boxes[..., :2]
    centre = (boxes[..., 2:] + boxes[..., :2]) / 2 + wh * moves[..., :2]
    half = wh * moves[..., 2:].clamp(-limit, limit).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _clip(boxes: Tensor, height: int, width: int) -> Tensor:
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def _per_class_nms(boxes: Tensor, probabilities: Tensor) -> dict[str, Tensor]:
    """Background is the LAST class. Score above .05, suppressed class by class at .5, the best 100."""
    found_boxes, scores, labels = [], [], []
    for label in range(CLASSES):
        own, score = boxes[:, label], probabilities[:, label]
        own, score = own[score > 0.05], score[score > 0.05]
        kept = torchvision.ops.nms(own, score, 0.5)
        found_boxes.append(own[kept])
        scores.append(score[kept])
        labels.append(torch.full((len(kept),), label))
    best, rows = torch.cat(scores).sort(descending=True)
    return {
        "boxes": torch.cat(found_boxes)[rows][:100],
        "scores": best[:100],
        "labels": torch.cat(labels)[rows][:100],
    }
