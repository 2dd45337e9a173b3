"""What the record says beside steps and checks: sizes by part, and what none of it proves."""

from __future__ import annotations

from typing import Any

from docker.prove.build import Image
from docker.prove.compose import Bounds
from docker.prove.sizes import bytecode_size, packages_by_size, tree_size

__all__ = ["not_covered", "sizes_of"]

_LARGEST = 12


def sizes_of(image: Image, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Bytes of the last stage by part, uncompressed."""
    last = steps[-1]["stage"]
    own = [step for step in steps if step["stage"] == last]
    (site,) = (image.root / "opt/venv/lib").glob("python*/site-packages")
    packages = packages_by_size(site)
    ours = image.root / "opt/hindsight"
    models = ours / "hindsight/models"
    return {
        "stand_in_base": own[0]["bytes_after"],
        "added_to_base": own[-1]["bytes_after"] - own[0]["bytes_after"],
        "added_by_step": {step["step"][:60]: step["bytes_added"] for step in own[1:] if step["bytes_added"]},
        "venv": tree_size(image.root / "opt/venv"),
        "venv_bytecode": bytecode_size(image.root / "opt/venv"),
        "packages": {name: size for name, (_, size) in list(packages.items())[:_LARGEST]},
        "other_packages": sum(size for _, size in list(packages.values())[_LARGEST:]),
        "ours": tree_size(ours) - tree_size(models),
        "models": {each.name: tree_size(each) for each in sorted(models.iterdir())},
        "versions": {name: version for name, (version, _) in sorted(packages.items())},
    }


def not_covered(bounds: Bounds) -> list[str]:
    """In words."""
    held = ", ".join(f"{name} {value}" for name, value in bounds.not_applied.items())
    return [
        "Docker itself: its builder's reading of the file, layers, cache, its default seccomp profile",
        "the base image: a Debian made by debootstrap stands in for it (stand_ins)",
        f"of compose.yaml: {held}",
        "the images for GPUs and for training, the plugin build, Prometheus and Grafana",
    ]
