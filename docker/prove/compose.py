"""How compose.yaml would start a service, as far as it can be done without Docker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from docker.prove.dockerfile import expand

__all__ = ["Bounds", "bounds_of", "interpolated"]

_KNOWN_SECURITY = ["no-new-privileges:true"]


@dataclass(frozen=True)
class Bounds:
    """`tmpfs`: (folder, mount options). `not_applied`: what compose would hold to and this does not."""

    environment: Mapping[str, str]
    tmpfs: tuple[tuple[str, str], ...]
    shm_size: str
    grace_seconds: float
    not_applied: Mapping[str, Any]


def bounds_of(path: Path, service: str) -> Bounds:
    """The service's bounds, every variable at its default. Raises ValueError where it is not read-only and
    without capabilities.
    """
    found = interpolated(yaml.safe_load(path.read_text()))["services"][service]
    if (
        not found["read_only"]
        or found["cap_drop"] != ["ALL"]
        or found["security_opt"] != _KNOWN_SECURITY
        or "cap_add" in found
    ):
        raise ValueError(f"{service}: expected read_only, cap_drop ALL and no-new-privileges, and no cap_add")
    mounts = tuple(each.partition(":")[::2] for each in found["tmpfs"])
    return Bounds(
        environment={name: str(value) for name, value in found["environment"].items()},
        tmpfs=mounts,
        shm_size=found["shm_size"],
        grace_seconds=float(found["stop_grace_period"].removesuffix("s")),
        not_applied={
            "limits": found["deploy"]["resources"]["limits"],
            "init": found["init"],
            "restart": found["restart"],
            "ports": found["ports"],
        },
    )


def interpolated(document: Any) -> Any:
    """The document with `${NAME:-default}` replaced by the default everywhere."""
    if isinstance(document, str):
        return expand(document, {}, 0)
    if isinstance(document, dict):
        return {key: interpolated(value) for key, value in document.items()}
    if isinstance(document, list):
        return [interpolated(value) for value in document]
    return document
