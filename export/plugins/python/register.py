"""Every operator as a plugin, and how it gets into TensorRT's registry."""

from __future__ import annotations

import logging
import threading
from functools import cache, partial
from typing import Any

from export.plugins.python.adapter import creator_class
from export.plugins.python.attributes import check_lists
from export.plugins.python.nms import BatchedNms, IouGuidedNms, SoftNms
from export.plugins.python.operator import NAMESPACE, Kind
from export.plugins.python.roi_align import MAX_LEVELS, RoiAlign, roi_align_name

KINDS: tuple[Kind, ...] = (
    *(
        Kind(roi_align_name(levels), RoiAlign.kinds, partial(RoiAlign, levels))
        for levels in range(1, MAX_LEVELS + 1)
    ),
    *(Kind(made.name, made.kinds, made) for made in (BatchedNms, IouGuidedNms, SoftNms)),
)

_registering = threading.Lock()
_log = logging.getLogger("hindsight.plugins")


def register_plugins(trt: Any) -> tuple[str, ...]:
    """Register every operator with the registry of `trt`, the module `tensorrt` or `tensorrt_rtx`.

    Returns their names. Once a process is enough, more do no harm; where the C++ plugins were loaded before,
    they stay. Needs no GPU: one is looked for when an engine runs. Raises RuntimeFailure where this TensorRT
    cannot hand attributes over.
    """
    with _registering:
        return _registered(trt)


@cache
def _registered(trt: Any) -> tuple[str, ...]:
    check_lists(trt)
    registry, creators = trt.get_plugin_registry(), creator_class(trt)
    for kind in KINDS:
        creator = creators(kind)
        if registry.register_creator(creator, NAMESPACE):
            _kept.append(creator)  # the registry does not own it
        else:
            _log.info("%s is served by a plugin that was registered before", kind.name)
    return tuple(kind.name for kind in KINDS)


_kept: list[Any] = []
