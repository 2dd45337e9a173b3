"""The type checker that test_shapes.py puts on every function of model/."""

from beartype import BeartypeConf, beartype

# the numeric tower: an int is a float, as static type checkers have it
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
