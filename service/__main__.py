"""`python -m service`: the same as `hindsight serve`."""

import typer

from service.cli import serve

if __name__ == "__main__":  # a spawned worker imports this module again under another name
    typer.run(serve)
