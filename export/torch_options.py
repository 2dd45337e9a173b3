"""What may follow the colon of the runtime's name: `torch:fp16,compile,graphs=8`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from hindsight.errors import OptionError

Precision = Literal["fp32", "tf32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class TorchOptions:
    """precision: of convolutions and fully connected layers; boxes, softmax and NMS are always float32.

    compile: torch.compile for backbone, pyramid and RPN. graphs: how many CUDA graphs are kept, one a shape
    of input; 0: none. nvjpeg: JPEGs are decoded on the GPU, where the runtime gets them encoded. search:
    cuDNN tries its algorithms on the first input of each shape instead of guessing: seconds for each, so for
    images of one size.
    """

    precision: Precision = "fp32"
    compile: bool = False
    graphs: int = 16
    nvjpeg: bool = False
    search: bool = False

    @property
    def half(self) -> torch.dtype | None:
        """The type that the dense part computes in, where that is not float32."""
        return _HALVES.get(self.precision)


def parse_options(argument: str) -> TorchOptions:
    """Raises OptionError for a word that is none of them."""
    precision: Precision = "fp32"
    compiled, graphs, nvjpeg, search = False, TorchOptions.graphs, False, False
    for word in (part.strip() for part in argument.split(",") if part.strip()):
        if word in PRECISIONS:
            precision = word
        elif word == "compile":
            compiled = True
        elif word == "nvjpeg":
            nvjpeg = True
        elif word == "search":
            search = True
        elif word.startswith("graphs=") and word.removeprefix("graphs=").isdecimal():
            graphs = int(word.removeprefix("graphs="))
        else:
            raise OptionError(
                f"runtime torch takes {', '.join(PRECISIONS)}, compile, nvjpeg, search and graphs=N, "
                f"separated by commas; got {word!r}"
            )
    return TorchOptions(precision, compiled, graphs, nvjpeg, search)
