"""Decoding and letterboxing on the device that detects: hindsight.preprocess once more, in torch.

Scaling follows Pillow's bilinear filter: widened when it reduces, one axis after the other, each rounded to
whole levels. A pixel differs from the CPU path by at most 1 of 255 levels, and few do. nvJPEG is another
decoder than Pillow's and may smooth colour in another way, so with it the tolerance is not promised.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from export.torch_failures import failure_of
from hindsight.decode import Header, ImageLimits, decode_image, read_header
from hindsight.manifest import ResizeRule
from hindsight.preprocess import Placement, padded_hw, scaled_hw

Photo = bytes | NDArray[np.uint8]
Run = Callable[[dict[str, NDArray[Any]], dict[str, Tensor]], dict[str, NDArray[Any]]]
_log = logging.getLogger("hindsight.torch")


class TorchPreprocessor:
    """See hindsight.runtime.Preprocessor.

    run: detects, given the inputs on the host and those on `device`. to_device: copies arrays there.
    enqueuing: entered while other work for the device is handed over. nvjpeg: decode JPEGs on the GPU.
    """

    def __init__(
        self,
        device: torch.device,
        rule: ResizeRule,
        run: Run,
        to_device: Callable[[Sequence[NDArray[np.uint8]]], list[Tensor]],
        enqueuing: Callable[[], AbstractContextManager[None]],
        *,
        nvjpeg: bool,
    ) -> None:
        self._device, self._rule = device, rule
        self._run, self._to_device, self._enqueuing = run, to_device, enqueuing
        self._nvjpeg = nvjpeg

    def detect(
        self, photos: Sequence[Photo], thresholds: Mapping[str, NDArray[Any]], limits: ImageLimits
    ) -> tuple[list[Placement], dict[str, NDArray[Any]]]:
        """Detect on the photos of one padded shape."""
        headers = [read_header(photo, limits) if isinstance(photo, bytes) else None for photo in photos]
        placements = [_placement(*pair, self._rule) for pair in zip(photos, headers, strict=True)]
        shapes = {padded_hw(placement.valid_hw, self._rule) for placement in placements}
        if len(shapes) != 1:
            raise ValueError(f"the photos of one batch must have one padded shape, got {sorted(shapes)}")
        encoded, pixels = self._shared_out(photos, headers, limits)
        try:
            decoded = self._upload(pixels)
            with self._enqueuing():
                decoded |= self._decode(encoded, headers, limits)
                whole = [decoded[place] for place in range(len(photos))]
                images = letterboxed(whole, placements, shapes.pop())
        except RuntimeError as error:
            raise failure_of(error, "torch cannot letterbox") from error
        sizes = np.array([placement.valid_hw for placement in placements], np.int64)
        return placements, self._run({"image_sizes": sizes, **thresholds}, {"images": images})

    def _shared_out(
        self, photos: Sequence[Photo], headers: Sequence[Header | None], limits: ImageLimits
    ) -> tuple[dict[int, bytes], dict[int, NDArray[np.uint8]]]:
        """By place: the JPEGs for nvJPEG, and the pixels of all else."""
        encoded: dict[int, bytes] = {}
        pixels: dict[int, NDArray[np.uint8]] = {}
        for place, (photo, header) in enumerate(zip(photos, headers, strict=True)):
            if not isinstance(photo, bytes):
                pixels[place] = photo
            elif self._nvjpeg and header and header.format == "JPEG" and header.mode in ("RGB", "L"):
                encoded[place] = photo
            else:
                pixels[place] = decode_image(photo, limits)
        return encoded, pixels

    def _upload(self, pixels: Mapping[int, NDArray[np.uint8]]) -> dict[int, Tensor]:
        tensors = self._to_device(list(pixels.values()))
        return {place: tensor.permute(2, 0, 1) for place, tensor in zip(pixels, tensors, strict=True)}

    def _decode(
        self, encoded: Mapping[int, bytes], headers: Sequence[Header | None], limits: ImageLimits
    ) -> dict[int, Tensor]:
        if not encoded:
            return {}
        own = [header for place in encoded if (header := headers[place]) is not None]
        images = jpegs_on(self._device, list(encoded.values()), own, limits)
        return dict(zip(encoded, images, strict=True))


def _placement(photo: Photo, header: Header | None, rule: ResizeRule) -> Placement:
    if header is not None:
        height, width = header.hw
    else:
        assert not isinstance(photo, bytes)
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or not photo.size:
            raise ValueError(f"expected uint8 [H, W, 3], got {photo.dtype} {list(photo.shape)}")
        height, width = photo.shape[:2]
    return Placement(scaled_hw((height, width), rule), (height, width))


def letterboxed(images: Sequence[Tensor], placements: Sequence[Placement], padded: tuple[int, int]) -> Tensor:
    """Images uint8 [3, h, w] -> uint8 [B, H, W, 3], scaled to their places top left, zero elsewhere."""
    batch = images[0].new_zeros(len(images), *padded, 3)
    for target, image, placement in zip(batch, images, placements, strict=True):
        height, width = placement.valid_hw
        target[:height, :width] = scaled(image, (height, width)).permute(1, 2, 0)
    return batch


def scaled(image: Tensor, hw: tuple[int, int]) -> Tensor:
    """uint8 [3, h, w] -> uint8 [3, *hw] as Pillow scales: across first, then down, both rounded."""
    if tuple(image.shape[1:]) == hw:
        return image
    levels = image[None].float()
    for size in ((image.shape[1], hw[1]), hw):
        if tuple(levels.shape[2:]) != size:
            levels = F.interpolate(levels, size, mode="bilinear", antialias=True, align_corners=False)
            levels = (levels + 0.5).floor_().clamp_(0, 255)
    return levels[0].to(torch.uint8)


def jpegs_on(
    device: torch.device, encoded: Sequence[bytes], headers: Sequence[Header], limits: ImageLimits
) -> list[Tensor]:
    """By nvJPEG; where it refuses one, all by the CPU, which tells what is wrong with it."""
    from torchvision.io import ImageReadMode, decode_jpeg

    data = [torch.frombuffer(bytearray(photo), dtype=torch.uint8) for photo in encoded]
    if device.type == "cuda":
        # nvJPEG writes from a stream of torchvision's, which does not wait for ours: the memory that it is
        # given may have been freed by work that still runs.
        torch.cuda.current_stream(device).synchronize()
    try:
        with warnings.catch_warnings():
            # torchvision 0.29 announces that its decoders move to another package
            warnings.simplefilter("ignore", DeprecationWarning)
            images: list[Tensor] = decode_jpeg(data, mode=ImageReadMode.RGB, device=device)
    except RuntimeError as error:
        _log.warning("JPEGs are decoded on the CPU: nvJPEG says %s", str(error).splitlines()[0][:200])
        return [
            torch.from_numpy(decode_image(photo, limits)).to(device).permute(2, 0, 1) for photo in encoded
        ]
    turned = [upright(image, header.orientation) for image, header in zip(images, headers, strict=True)]
    for image, header in zip(turned, headers, strict=True):
        if tuple(image.shape[1:]) != header.hw:
            raise ValueError(f"a JPEG of {header.hw} was decoded to {list(image.shape)}")
    return turned


def upright(image: Tensor, orientation: int) -> Tensor:
    """[3, h, w] turned as EXIF's orientation asks."""
    if orientation in (5, 7):
        image = image.transpose(1, 2)
    if orientation in (6, 8):
        return image.rot90(1 if orientation == 8 else 3, (1, 2))
    flips = {2: (2,), 3: (1, 2), 4: (1,), 7: (1, 2)}.get(orientation, ())
    return image.flip(flips) if flips else image
