"""Recipes: what is shipped loads, and a typo never passes."""

from pathlib import Path

import pytest

from training.recipe import RECIPES, Optimisation, Recipe, RecipeError, load_recipe
from training.schedule import learning_rate


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_loads_and_describes_a_detector(path: Path) -> None:
    recipe = load_recipe(path.stem)
    assert recipe.detector_config(3).num_classes == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optimisation]\nepoch = 3", r"no key 'epoch': did you mean 'epochs'"),
        ("[detector.head]\nwidht = 3", r"no key 'widht': did you mean 'width'"),
        ('model = "hindsigth"', r"unknown detector 'hindsigth': did you mean 'hindsight'"),
        ('[optimisation]\nlr = "fast"', r"optimisation.lr must be float, got 'fast'"),
        ("[optimisation]\nepochs = true", r"epochs must be int, got True"),
        ("[optimisation]\nlr = -1.0", r"lr must be positive, got -1.0"),
        ('[optimisation]\nschedule = "linear"', r'schedule must be "step" or "cosine"'),
        ('[optimisation]\noptimiser = "adam"', r'optimiser must be "sgd" or "adamw"'),
        ("[augment]\nhflip = 2.0", r"hflip must lie in 0..1"),
        ("[detector.head]\nstages = 9", r"head.stages must be 1..4, got 9"),
        ("model =", r"not valid TOML"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(path))


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(RecipeError, match="cells"):
        load_recipe("cellz")


def test_a_recipe_changes_only_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[detector.head]\nwidth = 64\n[resize]\nshort_side = 320")
    recipe, plain = load_recipe(str(path)), Recipe()
    assert recipe.detector_config(2).head.width == 64
    assert recipe.detector_config(2).rpn == plain.detector_config(2).rpn
    assert recipe.resize.long_side == plain.resize.long_side


def test_steps_follow_the_papers_schedule() -> None:
    recipe = Optimisation(lr=0.01, epochs=12, milestones=(8, 11), warmup_steps=500, warmup_factor=1 / 3)
    per_epoch = 1000
    assert learning_rate(recipe, 0, per_epoch) == pytest.approx(0.01 / 3)
    assert learning_rate(recipe, 250, per_epoch) == pytest.approx(0.01 * 2 / 3)
    assert learning_rate(recipe, 7999, per_epoch) == pytest.approx(0.01)
    assert learning_rate(recipe, 8000, per_epoch) == pytest.approx(0.001)
    assert learning_rate(recipe, 11_000, per_epoch) == pytest.approx(0.0001)


def test_cosine_ends_at_zero_and_a_short_run_still_warms_up() -> None:
    recipe = Optimisation(lr=0.01, epochs=2, schedule="cosine", warmup_steps=500, warmup_factor=0.1)
    rates = [learning_rate(recipe, step, 10) for step in range(20)]
    assert rates[0] == pytest.approx(0.001)
    assert max(rates) > 0.007
    assert learning_rate(recipe, 20, 10) == pytest.approx(0.0)
