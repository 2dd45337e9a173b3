"""The tables of both papers as data, and what runs them.

table = load_table("dir:table3")             # rows.py: typed rows of a CSV file, validated
recipe = recipe_for(table.rows[0])           # recipes.py: what the row trains
trainings, left_out = plan(table.rows, ...)  # plan.py: rows that share a training run
reproduce(table, table.rows, trainings, ...) # run.py: train, measure, write; resumable
"""

from training.published.recipes import NotInThisBuild, missing, recipe_for
from training.published.rows import Inference, PublishedError, Row, Table, known_tables, load_table

__all__ = [
    "Inference",
    "NotInThisBuild",
    "PublishedError",
    "Row",
    "Table",
    "known_tables",
    "load_table",
    "missing",
    "recipe_for",
]
