"""Deformable convolution: the operator against its definition, and its gradients against differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.ops import deform_conv2d, deform_conv2d_reference

PIXELS = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)  # 1 2 3 / 4 5 6 / 7 8 9
ONE = torch.ones(1, 1, 1, 1)  # the kernel of a single tap


def arguments(
    seed: int,
    *,
    batch: int = 2,
    size: tuple[int, int] = (6, 5),
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    modulated: bool = False,
    reach: float = 3.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, ...]:
    """Random arguments of the operator; offsets are spread over `reach` pixels either way."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    taps = kernel[0] * kernel[1]
    out = [
        (size[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    ]
    return (
        random(batch, 4, *size),
        random(batch, 2 * taps, *out) * reach,
        random(batch, taps, *out).sigmoid() if modulated else None,
        random(6, 4 // groups, *kernel),
        stride,
        padding,
        dilation,
        groups,
    )


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    pair = st.tuples(st.integers(1, 2), st.integers(1, 2))
    return {
        "batch": draw(st.integers(1, 2)),
        "size": draw(st.tuples(st.integers(3, 7), st.integers(3, 7))),
        "kernel": draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (3, 2)])),
        "stride": draw(pair),
        "padding": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "dilation": draw(pair),
        "groups": draw(st.sampled_from([1, 2])),
        "modulated": draw(st.booleans()),
        "reach": draw(st.sampled_from([0.0, 0.7, 3.0, 40.0])),
    }


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), geometries())
def test_it_computes_its_definition(seed: int, geometry: dict[str, Any]) -> None:
    given_ = arguments(seed, **geometry)
    torch.testing.assert_close(deform_conv2d(*given_), deform_conv2d_reference(*given_), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", [deform_conv2d, deform_conv2d_reference])
@pytest.mark.parametrize(
    ("dy", "dx", "value"),
    [
        (0, 0, 5.0),
        (-1, 0, 2.0),  # offsets are in pixels, dy first
        (0, 1, 6.0),
        (0.5, 0, 6.5),
        (0.25, -0.5, 5.25),
        (1.5, 0, 4.0),  # between the last row and nothing: half of 8
        (1.999, 0, 0.008),
        (2, 0, 0.0),
        (-1.75, 0, 0.5),  # a quarter of 2
        (-1.5, -1.5, 0.25),  # a quarter of 1, in the corner
        (-2, -2, 0.0),
        (0, 2.001, 0.0),
        (1e6, -1e6, 0.0),
    ],
)
def test_a_tap_reads_between_pixels_and_fades_to_zero_at_the_border(
    implementation: Any, dy: float, dx: float, value: float
) -> None:
    offset = torch.zeros(1, 2, 3, 3)
    offset[0, :, 1, 1] = torch.tensor([dy, dx])  # of the output in the middle
    found = implementation(PIXELS, offset, None, ONE, (1, 1), (0, 0), (1, 1), 1)
    assert float(found[0, 0, 1, 1]) == pytest.approx(value, abs=1e-5)
    others = torch.arange(9) != 4
    assert torch.equal(found.flatten()[others], PIXELS.flatten()[others])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("stride", "dilation"), [((1, 1), (1, 1)), ((2, 2), (1, 1)), ((2, 1), (1, 2))])
def test_without_offsets_it_is_a_convolution(
    stride: tuple[int, int], dilation: tuple[int, int], groups: int
) -> None:
    x, offset, _, weight, *rest = arguments(3, stride=stride, dilation=dilation, groups=groups)
    still = torch.zeros_like(offset)
    plain = F.conv2d(x, weight, None, stride, (1, 1), dilation, groups)
    torch.testing.assert_close(deform_conv2d(x, still, None, weight, *rest), plain, atol=2e-5, rtol=1e-4)
    half = torch.full_like(still[:, : still.shape[1] // 2], 0.5)
    torch.testing.assert_close(deform_conv2d(x, still, half, weight, *rest), plain / 2, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize(("stride", "groups"), [((1, 1), 1), ((2, 2), 2)])
def test_gradients_are_those_of_small_differences(
    modulated: bool, stride: tuple[int, int], groups: int
) -> None:
    given_ = arguments(
        5,
        batch=1,
        size=(4, 3),
        stride=stride,
        groups=groups,
        modulated=modulated,
        reach=1.5,
        dtype=torch.float64,
    )
    tensors = tuple(a.requires_grad_() if isinstance(a, Tensor) else a for a in given_)
    assert torch.autograd.gradcheck(deform_conv2d, tensors)


# torch's own checker looks at gradients of what is no leaf
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("modulated", [False, True])
def test_the_operator_is_well_formed(modulated: bool) -> None:
    """Among others: its fake has the shape of the real one, and its gradient can be traced."""
    given_ = arguments(6, batch=1, modulated=modulated)
    tensors = tuple(a.requires_grad_() if isinstance(a, Tensor) else a for a in given_)
    torch.library.opcheck(torch.ops.hindsight.deform_conv2d, tensors)


def test_other_numbers_of_offsets_or_weights_are_refused() -> None:
    x, offset, mask, weight, *rest = arguments(7, modulated=True)
    with pytest.raises(ValueError, match=r"offset must have 18 channels .* got 36"):
        deform_conv2d(x, offset.repeat(1, 2, 1, 1), mask, weight, *rest)
    with pytest.raises(ValueError, match=r"mask must have 9 channels .* got 18"):
        deform_conv2d(x, offset, mask.repeat(1, 2, 1, 1), weight, *rest)
