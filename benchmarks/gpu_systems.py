"""The detectors of benchmarks/gpu.py, each as a call on inputs that lie on the device already.

torchvision's Faster R-CNN and our baseline hold the same random weights, spread so that there are detections.
What favours torchvision: cuDNN may search for the fastest algorithms, its images are normalised floats of the
final size, so that its resize step is left out, and its batch norms are the fast kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.detector_facts import CLASSES, reference_and_ours
from export.prepare import prepared_copy
from export.torch_cuda import CudaExecutor, PendingBatch
from export.torch_dense import dense_context, made_ready
from export.torch_options import Precision, TorchOptions
from export.torch_runtime import DETECT_INPUTS
from model.complexity import multiply_adds
from model.config import DetectorConfig
from model.detector import TwoStageDetector
from model.zoo import config_of

Call = Callable[[], Any]


@dataclass(frozen=True)
class Scale:
    """How large everything is. seconds: of one measurement. product: side of the ceiling's matrices."""

    device: str
    image_hw: tuple[int, int]
    batches: tuple[int, ...]
    precisions: tuple[Precision, ...]
    proposals: int
    seconds: float
    product: int

    @property
    def middle(self) -> int:
        """The batch at which systems are compared."""
        return self.batches[len(self.batches) // 2]


FULL = Scale("cuda", (800, 1344), (1, 8, 16), ("fp16", "bf16"), 1000, 0.7, 8192)
TOY = Scale("cpu", (32, 64), (1, 2), ("bf16",), 20, 0.01, 64)


@dataclass(frozen=True, eq=False)
class System:
    """A detector and the inputs of one batch. found: how many detections an image a call answers. serve: the
    same from host memory to host memory, staged, as the runtime `torch` does it; None where there is no GPU.
    """

    call: Call
    found: Callable[[Any], float]
    serve: Callable[[], PendingBatch] | None = None


def configs(scale: Scale) -> dict[str, DetectorConfig]:
    """Ours, R50-FPN, with torchvision's class count and the same proposals."""
    named = {
        "baseline": config_of("faster_rcnn", CLASSES),
        "baseline + DIR": config_of("faster_rcnn_dir", CLASSES),
        "decoupled cascade": config_of("decoupled_rcnn", CLASSES),
        "decoupled cascade + DIR": config_of("hindsight", CLASSES),
    }
    return {name: _with_proposals(config, scale) for name, config in named.items()}


def _with_proposals(config: DetectorConfig, scale: Scale) -> DetectorConfig:
    return replace(config, rpn=replace(config.rpn, pre_nms_test=1000, post_nms_test=scale.proposals))


def with_looks(config: DetectorConfig, looks: int) -> DetectorConfig:
    """`config` with its localization head reading `looks` boxes."""
    assert config.localization is not None
    return replace(config, localization=replace(config.localization, boxes_at_inference=looks))


def giga_multiply_adds(config: DetectorConfig, scale: Scale) -> float:
    """Of one image."""
    return multiply_adds(config, scale.image_hw, scale.proposals) / 1e9


def torchvision_system(
    scale: Scale, batch: int, precision: str, layout: torch.memory_format, *, compiled: bool = False
) -> System:
    """Their eager detector, its weights in `layout`, under autocast unless fp32; `compiled`: through
    torch.compile.
    """
    theirs, _ = _with_same_weights(scale.proposals)
    theirs.to(scale.device).to(memory_format=layout)  # type: ignore[call-overload]
    images = [image.permute(2, 0, 1).float().div(255).contiguous() for image in photos(scale, batch)]
    run: Any = theirs
    if compiled:
        # The toy only shows that the part works: compiling for a CPU would take minutes.
        run = torch.compile(theirs, backend="eager" if scale.device == "cpu" else "inductor")
    return System(lambda: _quietly(run, images, scale, precision), _their_count)


def _quietly(run: nn.Module, images: list[Tensor], scale: Scale, precision: str) -> Any:
    types = {"fp16": torch.float16, "bf16": torch.bfloat16}
    narrow = torch.autocast(scale.device, types[precision]) if precision in types else nullcontext()
    with torch.no_grad(), torch.backends.cudnn.flags(True, benchmark=True), narrow:
        return run(images)


def _their_count(answers: Any) -> float:
    return sum(len(answer["boxes"]) for answer in answers) / len(answers)


@cache
def _with_same_weights(proposals: int) -> tuple[nn.Module, TwoStageDetector]:
    theirs, ours = reference_and_ours(proposals=proposals)
    return theirs, ours.eval()


def our_detector(config: DetectorConfig, scale: Scale) -> TwoStageDetector:
    """With the same weights as torchvision's where it is the baseline; else `lively`."""
    if config == configs(scale)["baseline"]:
        return _with_same_weights(scale.proposals)[1]
    return lively(config)


def lively(config: DetectorConfig) -> TwoStageDetector:
    """Random weights, classifiers scaled."""
    torch.manual_seed(7)
    detector = TwoStageDetector(config).eval()
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if name.endswith(("logits.weight", "objectness.weight")):
                parameter.mul_(5)  # untrained heads score every box alike, and nothing would be found
    return detector


def our_system(
    detector: TwoStageDetector, scale: Scale, batch: int, precision: Precision, *, compiled: bool = False
) -> System:
    """Ours as the runtime `torch` prepares it, batch norms folded; `compiled`: its option `compile`."""
    options = TorchOptions(precision, compile=compiled, search=True)  # as torchvision's may
    device = torch.device("cpu") if scale.device == "cpu" else torch.device("cuda", 0)
    ready = made_ready(prepared_copy(detector), device, options)
    inputs = our_inputs(scale, batch)

    def call() -> Any:
        with dense_context(device, options):
            return ready(*inputs)

    def found(output: Any) -> float:
        return float(output.num_detections.float().mean())

    if device.type == "cpu":
        return System(call, found)

    def detect(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        output = ready(*(given[name] for name in DETECT_INPUTS))
        return {name: values for name, values in output._asdict().items() if values is not None}

    executor = CudaExecutor(device, {"detect": detect}, lambda: dense_context(device, options), graphs=4)
    on_host = {name: value.cpu().numpy() for name, value in zip(DETECT_INPUTS, inputs, strict=True)}
    return System(call, found, lambda: executor.submit("detect", on_host))


def our_inputs(scale: Scale, batch: int) -> tuple[Tensor, ...]:
    """model.onnx's inputs on the device, thresholds as torchvision's."""
    values = (0.05, 0.0, 0.5)
    fill = torch.ones(batch, device=scale.device)
    sizes = torch.tensor([scale.image_hw] * batch, device=scale.device)
    thresholds = (fill * value for value in values)
    return (photos(scale, batch), sizes, *thresholds, torch.tensor([0.5], device=scale.device))


def photos(scale: Scale, batch: int) -> Tensor:
    """uint8 [B, H, W, 3]: soft blotches of many sizes, the same ones for every system."""
    generator = torch.Generator().manual_seed(0)
    height, width = scale.image_hw
    image = torch.zeros(batch, 3, height, width)
    for cell in (4, 16, 64):
        coarse = torch.rand(batch, 3, -(-height // cell), -(-width // cell), generator=generator)
        image += nn.functional.interpolate(coarse, size=(height, width), mode="bilinear") / 3
    return (image * 255).byte().permute(0, 2, 3, 1).contiguous().to(scale.device)
