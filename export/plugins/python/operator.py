"""What a plugin must say of its operator, without TensorRT: types and formats by the names of its enums.

adapter.py puts an `Operator` behind TensorRT's interfaces. Shapes come in two forms: numbers at run time, and
while an engine is built expressions of which some are known (`Size`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from model.kernels.params import VECTOR_BYTES, Launch, Params

VERSION, NAMESPACE = "1", "hindsight"

FLOAT, BOOL, LINEAR = "FLOAT", "BOOL", "LINEAR"
# Value of an attribute, as it is serialised too; the type of PluginField follows from Python's.
Value = int | float | str | tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """A tensor as TensorRT describes it; `shape` as the network sees it (NCHW), whatever the format."""

    dtype: str
    format: str
    shape: tuple[int, ...]

    @property
    def volume(self) -> int:
        """How many elements."""
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True)
class Work:
    """One launch for given shapes; `Operator.bind` writes the addresses into a copy of `params`."""

    kernel: str
    params: Params
    launch: Launch


class Sizes(Protocol):
    """Arithmetic on sizes that are not known yet."""

    def constant(self, value: int) -> Any:
        """A size of which the value is known."""

    def product(self, first: Any, second: Any) -> Any:
        """Both multiplied."""

    def known(self, size: Any) -> int | None:
        """The value of a size where it is known."""


class Operator(Protocol):
    """One operator with its attributes."""

    @property
    def name(self) -> str:
        """As in the graph."""

    @property
    def source(self) -> str:
        """The kernels' source, by its name in `compile.KERNELS`."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""

    def attributes(self) -> Mapping[str, Value]:
        """What the node of the graph was given, under the same names: what an engine stores."""

    def output_types(self, types: Sequence[str]) -> list[str]:
        """Types of the outputs. Raises ValueError for inputs that the operator cannot take."""

    def output_shapes(self, shapes: Sequence[Sequence[Any]], sizes: Sizes) -> list[list[Any]]:
        """Shapes of the outputs. Raises ValueError as far as what is known contradicts the operator."""

    def supports(self, position: int, tensors: Sequence[Tensor]) -> bool:
        """Whether the tensor at `position` (inputs, then outputs) is fine, given those before it."""

    def workspace_bytes(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Memory that a call wants for inputs of these shapes or smaller ones."""

    def plan(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Work | None:
        """The launch for these shapes; None where there is nothing to compute. Raises ValueError."""

    def bind(self, params: Any, inputs: Sequence[int], outputs: Sequence[int], workspace: int) -> None:
        """Write addresses into the parameters of a launch. Raises ValueError for one that it cannot use."""


@dataclass(frozen=True)
class Kind:
    """An operator before it has its attributes: name, the attributes by name and type, and what makes it."""

    name: str
    attributes: Mapping[str, type]
    make: Callable[[Mapping[str, Value]], Operator]


def check_count(operator: str, names: Sequence[str], found: Sequence[Any]) -> None:
    """Raises ValueError for too few or too many inputs."""
    if len(found) != len(names):
        raise ValueError(f"{operator}: expected {len(names)} inputs ({', '.join(names)}), got {len(found)}")


def check_rank(operator: str, name: str, shape: Sequence[Any], rank: int, meaning: str) -> None:
    """Raises ValueError that names the input and what it should be."""
    if len(shape) != rank:
        raise ValueError(f"{operator}: expected {name} {meaning}, got {len(shape)} dimensions")


def check_same(operator: str, sizes: Sizes, what: str, first: Any, second: Any) -> None:
    """Raises ValueError where two sizes are known and differ."""
    a, b = sizes.known(first), sizes.known(second)
    if a is not None and b is not None and a != b:
        raise ValueError(f"{operator}: {what} differ: {a} and {b}")


def check_size(operator: str, sizes: Sizes, what: str, size: Any, expected: int) -> None:
    """Raises ValueError where a size is known and is another."""
    known = sizes.known(size)
    if known is not None and known != expected:
        raise ValueError(f"{operator}: expected {what} to be {expected}, got {known}")


def check_addresses(operator: str, names: Sequence[str], addresses: Sequence[int]) -> None:
    """The kernels load and store 16 bytes at once. Raises ValueError for an address they cannot."""
    for name, address in zip(names, addresses, strict=True):
        if address % VECTOR_BYTES:
            raise ValueError(
                f"{operator}: {name} lies at {address:#x}, which is no multiple of {VECTOR_BYTES}"
            )
