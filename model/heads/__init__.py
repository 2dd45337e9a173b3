"""Second stages: what turns a proposal into class scores and a box. One host a file."""

from __future__ import annotations

from collections.abc import Sequence

from model.config import DetectorConfig
from model.heads.cascade import CascadeHead
from model.heads.decoupled import DecoupledHead
from model.heads.double_head import DoubleHead
from model.heads.host import Host
from model.heads.htc import HtcHead
from model.heads.shared import SharedHead
from model.heads.tsd import TsdHead

HOSTS: dict[str, type[SharedHead | DecoupledHead | CascadeHead | DoubleHead]] = {
    "shared": SharedHead,
    "decoupled": DecoupledHead,
    "cascade": CascadeHead,
    "double": DoubleHead,
}


def build_host(in_features: int, config: DetectorConfig, strides: Sequence[int]) -> Host:
    """The second stage of `config.head.kind`; `in_features` are those of one RoI, `strides` the pyramid's."""
    if config.head.kind == "htc":
        return HtcHead(in_features, config, strides)
    if config.head.kind == "tsd":
        return TsdHead(in_features, config.head, config.num_classes, config.pooling.output_size)
    return HOSTS[config.head.kind](in_features, config.head, config.num_classes)
