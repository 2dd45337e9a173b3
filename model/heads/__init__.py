"""Second stages: what turns a proposal into class scores and a box. One host a file."""

from __future__ import annotations

from model.config import HeadConfig
from model.heads.cascade import CascadeHead
from model.heads.decoupled import DecoupledHead
from model.heads.double_head import DoubleHead
from model.heads.host import Host
from model.heads.shared import SharedHead

HOSTS: dict[str, type[SharedHead | DecoupledHead | CascadeHead | DoubleHead]] = {
    "shared": SharedHead,
    "decoupled": DecoupledHead,
    "cascade": CascadeHead,
    "double": DoubleHead,
}


def build_host(in_features: int, config: HeadConfig, num_classes: int) -> Host:
    """The second stage of `config.kind`; `in_features` are those of one pooled RoI."""
    return HOSTS[config.kind](in_features, config, num_classes)
