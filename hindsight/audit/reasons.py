"""A verdict in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from hindsight.audit.judge import Judged, Missing

__all__ = ["reason"]


def reason(said: Judged | Missing, model_names: Sequence[str], own_name: str, twin: int | None) -> str:
    """One or two sentences. own_name: the annotated class. twin: a duplicate's other annotation, its id."""
    if isinstance(said, Missing):
        return (
            f"The model is sure of {_a(model_names[said.own.label])} here (score {said.own.score:.2f}), and "
            "no annotation is near."
        )
    other = model_names[said.other_label] if said.other_label >= 0 else "anything else"
    if said.verdict == "duplicate":
        return f"The same object as annotation {twin}, which fits it better."
    if said.verdict == "wrong class":
        return (
            f"Looks like {_a(other)} (class score {said.other_score:.2f}) and not like {_a(own_name)} "
            f"({said.class_score:.2f})."
        )
    if said.verdict == "no object":
        return (
            f"Nothing here looks like an object: {own_name} gets a class score of {said.class_score:.2f}, "
            f"{other} {said.other_score:.2f}, and the model puts no box of its own here."
        )
    if said.verdict == "loose":
        return f"Too large: about {_percent(said.background)} of this box is background."
    if said.verdict == "cut":
        return f"Cut: about {_percent(said.outside)} of the object lies outside this box."
    if said.verdict == "shifted":
        return (
            f"Beside its object: about {_percent(said.background)} of the box is background, and "
            f"{_percent(said.outside)} of the object lies outside."
        )
    return f"Fits: predicted IoU {said.iou:.2f}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _a(name: str) -> str:
    """With its article: an RBC is read letter by letter."""
    spelt = len(name) > 1 and name.isupper()
    vowel = name[:1].upper() in ("AEFHILMNORSX" if spelt else "AEIOU")
    return f"{'an' if vowel else 'a'} {name}"
