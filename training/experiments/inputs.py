"""What the command line names, opened and checked: data, recipes, seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hindsight.errors import OptionError
from training.data import Dataset, open_dataset
from training.data.parts import joined
from training.recipe import Recipe, RecipeError, load_recipe

FOLDER = Path(__file__).parent
GPU = "gpu"


def open_sets(
    data: Path,
    images: Path | None,
    split: str,
    test_data: Path | None,
    test_split: str,
    skip_bad: bool = False,
) -> tuple[Dataset, Dataset]:
    """Training and test images. Raises DatasetError, OptionError where they share some."""
    source = test_data or data
    if source.is_file() and test_data is None:
        raise OptionError("--test-data names the COCO file to measure on")

    def opened(path: Path, splits: str, names: tuple[str, ...] | None) -> Dataset:
        if not path.is_dir():
            return open_dataset(path, images=images, class_names=names, skip_bad=skip_bad)
        if not listed(splits):
            raise OptionError("--split and --test-split name VOC lists, as in train or val,test")
        parts = [
            open_dataset(path, images=images, split=s, class_names=names, skip_bad=skip_bad)
            for s in listed(splits)
        ]
        return joined(parts) if len(parts) > 1 else parts[0]

    train_set = opened(data, split, None)
    test_set = opened(source, test_split, train_set.class_names)
    shared = len(train_set.files() & test_set.files())
    if shared:
        raise OptionError(f"{shared} of the {len(test_set)} test images are trained on: choose other splits")
    return train_set, test_set


def open_recipes(
    name: str, recipe: Path | None, heads: Path | None, limits: tuple[int | None, int | None], on_gpu: bool
) -> tuple[Recipe, Recipe]:
    """Of the host, or of claims 5 and 6, and of the heads. Raises RecipeError."""
    host = recipe or FOLDER / f"{GPU if on_gpu else name}.toml"
    if recipe is None and not host.is_file():
        raise RecipeError(f"no host recipe is known for {name!r}: give one with --recipe, or --name the data")
    loaded = load_recipe(str(host)), load_recipe(str(heads or FOLDER / "heads.toml"))
    return _shorter(loaded[0], limits[0]), _shorter(loaded[1], limits[1])


def _shorter(recipe: Recipe, epochs: int | None) -> Recipe:
    if epochs is None or epochs >= recipe.optimisation.epochs:
        return recipe
    return replace(recipe, optimisation=replace(recipe.optimisation, epochs=epochs))


def seeds_of(text: str) -> tuple[int, ...]:
    """Whole numbers joined by commas. Raises OptionError."""
    seeds = tuple(int(part) for part in listed(text) if part.isdigit())
    if not seeds or len(seeds) != len(listed(text)) or len(set(seeds)) != len(seeds):
        raise OptionError(f"--seeds must be different whole numbers joined by commas, got {text!r}")
    return seeds


def listed(text: str) -> list[str]:
    """The parts between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def name_of(data: Path) -> str:
    """Of the folder that holds the data."""
    resolved = data.resolve()
    return resolved.name if resolved.is_dir() else resolved.parent.name
