"""Letterboxing in torch against hindsight.preprocess, on the CPU; nvJPEG itself on a GPU."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import hindsight
from export.torch_preprocess import TorchPreprocessor, jpegs_on, letterboxed, upright
from export.torch_runtime import open_torch
from hindsight.api import Detector
from hindsight.artifact import Artifact, find_artifact
from hindsight.decode import _UPRIGHT, DEFAULT_LIMITS, decode_image, read_header
from hindsight.errors import CorruptImage, ImageTooLarge
from hindsight.manifest import ResizeRule
from hindsight.options import DetectOptions
from hindsight.preprocess import ImageLimits, Placement, letterbox
from hindsight.runtime import open_runtime, preprocessor_of

CPU = torch.device("cpu")
RULE = ResizeRule(96, 160)
LEVELS = 1  # of 255: the tolerance that we state
SHARE = 0.1  # of pixels that may differ at all: most where a whole factor makes many ties


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def jpeg(pixels: NDArray[np.uint8], orientation: int = 1, quality: int = 90) -> bytes:
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize(
    "hw", [(480, 640), (96, 128), (33, 50), (97, 1000), (1000, 97), (5, 7), (96, 96), (1, 300), (700, 30)]
)
def test_letterboxing_is_the_cpus_within_one_level(hw: tuple[int, int]) -> None:
    pixels = noise(*hw)
    expected = letterbox(pixels, RULE)
    placement = Placement(expected.valid_hw, expected.original_hw)
    height, width = expected.image.shape[:2]
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    found = letterboxed([image, image], [placement] * 2, (height, width)).numpy()
    assert found.dtype == np.uint8 and np.array_equal(found[0], found[1])
    difference = np.abs(found[0].astype(int) - expected.image)
    assert difference.max() <= LEVELS and (difference > 0).mean() <= SHARE
    outside = found[0].copy()
    outside[: placement.valid_hw[0], : placement.valid_hw[1]] = 0
    assert not outside.any()


@pytest.mark.parametrize("orientation", [1, *_UPRIGHT])
def test_orientations_are_pillows(orientation: int) -> None:
    pixels = noise(3, 5)
    turn = _UPRIGHT.get(orientation)
    image = Image.fromarray(pixels)
    expected = np.asarray(image if turn is None else image.transpose(turn))
    found = upright(torch.from_numpy(pixels).permute(2, 0, 1), orientation)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


class OnTheCpu:
    """ONNX Runtime behind a preprocessor, as a runtime with one looks from outside."""

    def __init__(self, artifact: Artifact, *, nvjpeg: bool) -> None:
        self._plain = open_runtime("onnxruntime", artifact)
        self.close, self.rescore, self.detect = self._plain.close, self._plain.rescore, self._plain.detect
        self.batches: list[int] = []
        self.preprocessor = TorchPreprocessor(
            CPU, artifact.manifest.resize, self._run, self._to_device, self._enqueuing, nvjpeg=nvjpeg
        )

    def _run(
        self, inputs: Mapping[str, NDArray[Any]], on_device: Mapping[str, torch.Tensor]
    ) -> dict[str, NDArray[Any]]:
        self.batches.append(len(on_device["images"]))
        return self._plain.detect({**inputs, "images": on_device["images"].numpy()})

    def _to_device(self, arrays: Sequence[NDArray[np.uint8]]) -> list[torch.Tensor]:
        return [torch.from_numpy(values.copy()) for values in arrays]

    @contextlib.contextmanager
    def _enqueuing(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize("nvjpeg", [False, True])
def test_the_library_detects_the_same_through_a_preprocessor(
    nvjpeg: bool, tiny_artifact: Artifact, tmp_path: Any
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(noise(120, 200)))
    sideways = jpeg(np.full((60, 90, 3), 200, np.uint8), orientation=6)
    grey = Image.fromarray(noise(40, 60)).convert("L")
    images = [noise(200, 130), path, sideways, grey, jpeg(noise(120, 200, seed=1)), noise(50, 50)]
    plain = Detector(tiny_artifact, open_runtime("onnxruntime", tiny_artifact))
    runtime = OnTheCpu(tiny_artifact, nvjpeg=nvjpeg)
    found = Detector(tiny_artifact, runtime).detect_batch(images, score_threshold=0.1)
    expected = plain.detect_batch(images, score_threshold=0.1)
    for one, other in zip(found, expected, strict=True):
        assert one.image_hw == other.image_hw and len(one) == len(other) > 0
        np.testing.assert_allclose(one.scores, other.scores, atol=0.005)
        np.testing.assert_allclose(np.sort(one.boxes, axis=0), np.sort(other.boxes, axis=0), atol=1e-3)
    assert sum(runtime.batches) == len(images) and max(runtime.batches) > 1


def test_photos_of_several_padded_shapes_are_no_batch(tiny_artifact: Artifact) -> None:
    with pytest.raises(ValueError, match="one padded shape"):
        OnTheCpu(tiny_artifact, nvjpeg=False).preprocessor.detect(
            [noise(50, 50), noise(50, 150)], {}, DEFAULT_LIMITS
        )


def test_bad_photos_are_the_same_errors(tiny_artifact: Artifact, tmp_path: Any) -> None:
    detector = Detector(
        tiny_artifact, OnTheCpu(tiny_artifact, nvjpeg=True), limits=ImageLimits(max_pixels=9999)
    )
    with pytest.raises(ImageTooLarge):
        detector.detect(jpeg(noise(120, 200)))
    whole = jpeg(noise(50, 50))
    with pytest.raises(CorruptImage):
        detector.detect(whole[: len(whole) // 2])
    path = tmp_path / "bad.jpg"
    path.write_bytes(whole[:9])
    with pytest.raises(CorruptImage, match=r"bad\.jpg"):
        detector.detect(path)


def test_a_runtime_without_one_says_so(tiny_artifact: Artifact) -> None:
    assert preprocessor_of(open_runtime("onnxruntime", tiny_artifact)) is None
    assert (
        preprocessor_of(open_torch(find_artifact("cells"), device="cpu", threads=None, argument="")) is None
    )


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("hw", [(480, 640), (97, 1000), (33, 50), (3000, 4000)])
def test_letterboxing_on_a_gpu_is_the_cpus_within_one_level(hw: tuple[int, int]) -> None:
    pixels = noise(*hw)
    expected = letterbox(pixels, RULE)
    placement = Placement(expected.valid_hw, expected.original_hw)
    height, width = expected.image.shape[:2]
    image = torch.from_numpy(pixels).cuda().permute(2, 0, 1)
    found = letterboxed([image], [placement], (height, width))[0].cpu().numpy()
    difference = np.abs(found.astype(int) - expected.image)
    assert difference.max() <= LEVELS and (difference > 0).mean() <= SHARE


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("argument", ["", "nvjpeg"])
def test_a_photo_on_a_gpu_is_detected_as_on_the_cpu(argument: str) -> None:
    artifact = find_artifact("cells")
    runtime = open_torch(artifact, device="cuda", threads=None, argument=argument)
    expected = hindsight.load("cells").detect(artifact.samples[0], score_threshold=0.5)
    with Detector(artifact, runtime) as detector:
        for _ in range(3):
            found = detector.detect(artifact.samples[0], score_threshold=0.5)
            assert abs(len(found) - len(expected)) <= 1 and len(found) > 0


@pytest.mark.gpu
@on_gpu
def test_nvjpeg_decodes_nearly_as_pillow() -> None:
    """On a photo, where colour changes gently; on noise the two differ by much more."""
    artifact = find_artifact("cells")
    data = artifact.samples[0].read_bytes()
    found = jpegs_on(torch.device("cuda", 0), [data], [read_header(data)], DEFAULT_LIMITS)[0]
    expected = decode_image(data)
    difference = np.abs(found.permute(1, 2, 0).cpu().numpy().astype(int) - expected)
    assert difference.mean() < 2


def test_thresholds_go_through(tiny_artifact: Artifact) -> None:
    detector = Detector(tiny_artifact, OnTheCpu(tiny_artifact, nvjpeg=False))
    white = np.full((64, 64, 3), 255, np.uint8)
    assert len(detector.detect(white)) > 0
    assert len(detector.detect(white // 3, class_threshold=0.9)) == 0
    assert DetectOptions.resolve(tiny_artifact.manifest).nms_threshold > 0
