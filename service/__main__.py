"""`python -m service`: the same as `hindsight serve`."""

import typer

from service.cli import serve

if __name__ == "__main__":
    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    program.command()(serve)
    program()
