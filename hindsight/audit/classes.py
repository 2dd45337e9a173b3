"""Which class of the model each class of a data set is."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from hindsight.errors import OptionError
from hindsight.hints import did_you_mean, listed

__all__ = ["NOT_JUDGED", "map_classes", "parse_mapping"]

NOT_JUDGED = -1  # the label of a class that the model is not asked about


def parse_mapping(texts: Sequence[str]) -> dict[str, str]:
    """`--map` as typed: DATA=MODEL each. Raises OptionError."""
    mapping: dict[str, str] = {}
    for text in texts:
        data_name, sign, model_name = (part.strip() for part in text.rpartition("="))
        if not sign or not data_name or not model_name:
            raise OptionError(f"--map takes NAME IN THE DATA=NAME IN THE MODEL, got {text!r}")
        if data_name in mapping:
            raise OptionError(f"--map names {data_name!r} twice")
        mapping[data_name] = model_name
    return mapping


def map_classes(
    data_names: Sequence[str],
    model_names: Sequence[str],
    renamed: Mapping[str, str],
    skipped: Sequence[str],
) -> tuple[int, ...]:
    """The model's label of each class of the data set, NOT_JUDGED for those `skipped`.

    renamed: data set's name -> model's name; other names are the same in both. Raises OptionError for a class
    that the model does not know, and for a name in `renamed` or `skipped` that does not exist.
    """
    for option, names in (("--map", renamed), ("--skip-class", skipped)):
        for name in names:
            if name not in data_names:
                raise OptionError(
                    f"{option}: the data set has no class {name!r}{did_you_mean(name, data_names)}; it has "
                    f"{listed(data_names)}"
                )
    for name in renamed.values():
        if name not in model_names:
            raise OptionError(
                f"--map: the model knows no {name!r}{did_you_mean(name, model_names)}; it knows "
                f"{listed(model_names)}"
            )
    both = sorted(set(renamed) & set(skipped))
    if both:
        raise OptionError(f"--map and --skip-class both name {listed(both)}")
    wanted = {name: renamed.get(name, name) for name in data_names if name not in skipped}
    unknown = [name for name, target in wanted.items() if target not in model_names]
    if unknown:
        first = unknown[0]
        near = difflib.get_close_matches(first.lower(), [name.lower() for name in model_names], n=1)
        guess = next((name for name in model_names if near and name.lower() == near[0]), model_names[0])
        raise OptionError(
            f"the model does not know the data set's {listed(unknown)} (it knows {listed(model_names)}): "
            f'say what they are (--map "{first}={guess}") or leave them out (--skip-class "{first}")'
        )
    return tuple(model_names.index(wanted[name]) if name in wanted else NOT_JUDGED for name in data_names)
