"""`python -m hindsight`: the same program as the console script."""

from hindsight.cli import main

main()
