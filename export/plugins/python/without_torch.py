"""Makes `model.ops.kernels` importable on its own; imported before anything of it.

The kernels' modules need no torch, but Python runs `model.ops` first, the package around them, which holds
the torch operators: seconds of start-up and a dependency that no host of an engine has a use for. So the
inner package goes into sys.modules without the outer one, under its own name: whoever imports `model.ops`
later, or has before, shares the same modules.
"""

import importlib.util
import sys
from pathlib import Path

import model

NAME = "model.ops.kernels"


def _import_alone() -> None:
    if NAME in sys.modules:
        return
    folder = Path(model.__path__[0], "ops", "kernels")
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None  # both follow from the file's name
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)


_import_alone()
