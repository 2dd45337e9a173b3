"""What a model is for and where it ends, in words: for its card and for GET /models."""

from __future__ import annotations

from hindsight.manifest import Manifest

_MOST_NAMES = 20  # of the classes; the card and /models list them all beside these words


def intended_use(manifest: Manifest) -> str:
    """What the model finds and what of an answer a person has to look at; one paragraph."""
    names = ", ".join(manifest.class_names[:_MOST_NAMES])
    if len(manifest.classes) > _MOST_NAMES:
        names += f" and {len(manifest.classes) - _MOST_NAMES} more classes"
    numbers = ", each with a class score"
    if manifest.has_localization:
        numbers += ", a predicted IoU, a purity and an integrity"
    if manifest.has_masks:
        numbers += ", and with a mask"
    return (
        f"Finding {names} in photographs like those it was trained on: boxes{numbers}. "
        "It gives estimates, not findings: a person has to look before anything that matters is decided."
    )


def limits(manifest: Manifest) -> str:
    """What the model misses by its making, and what nobody has measured; one paragraph."""
    rule = manifest.resize
    return (
        f"Images are scaled to a short side of {rule.short_side} px (long side at most {rule.long_side}): "
        "objects of a few pixels at that size are missed. At most "
        f"{manifest.max_detections} detections an image are reported. Other objects, cameras, lighting "
        "and magnifications than the training data's were not measured; expect worse figures there."
    )
