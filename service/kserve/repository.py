"""The model-repository extension: which models there are, and loading and unloading them, for administrators:
the same changes as POST /models/NAME/load and unload make.
"""

import re
from collections.abc import Mapping
from typing import Any

from hindsight.errors import ModelNotFound, OptionError
from hindsight.versions import NAME_PATTERN
from service.errors import BadBody
from service.kserve.models import all_models
from service.kserve.tensor_model import SUFFIX
from service.pipeline import Services

_READY, _UNAVAILABLE, _LOADING = "READY", "UNAVAILABLE", "LOADING"


async def index(services: Services, ready_only: bool) -> list[dict[str, str]]:
    """Every model with its state: each version that is loaded, in both its forms, and those that could be."""
    ready = services.ready
    state, reason = (_READY, "") if ready else (_UNAVAILABLE, "no worker is ready")
    found = [
        _entry(model.name, model.artifact.manifest.version, state, reason) for model in all_models(services)
    ]
    if ready_only:
        return found if ready else []
    for name in await services.control.names():
        loaded = {artifact.manifest.version for artifact in services.registry.versions(name)}
        for each in await services.control.overview(name):
            if each["version"] not in loaded:
                state = _LOADING if each["state"] == "loading" else _UNAVAILABLE
                found.append(_entry(name, each["version"] or "", state, each["failure"] or "unloaded"))
    return found


async def load(services: Services, name: str, parameters: Mapping[str, Any]) -> None:
    """The newest version on disk, in place of what is loaded; waits until it serves. Raises what ModelControl
    does; OptionError for parameters.
    """
    if parameters:
        given = ", ".join(sorted(parameters))[:128]
        raise OptionError(f"loading takes no parameters here, got {given}: a model is what its folder holds")
    change = await services.control.load(_plain(services, name), None)
    await services.control.finished(change)


async def unload(services: Services, name: str, parameters: Mapping[str, Any]) -> None:
    """All its versions; waits until it is done. Raises what ModelControl does; OptionError for parameters but
    unload_dependents, which no model here has.
    """
    unknown = sorted(set(parameters) - {"unload_dependents"})
    if unknown:
        raise OptionError(f"unloading takes the parameter unload_dependents alone, got {unknown[0][:64]!r}")
    change = services.control.unload(_plain(services, name), None)
    await services.control.finished(change)


def _plain(services: Services, name: str) -> str:
    """The name that models are loaded by. Raises ModelNotFound, and BadBody for that of a model's tensors."""
    plain = name.removesuffix(SUFFIX)
    if plain != name and services.registry.versions(plain) and not services.registry.versions(name):
        raise BadBody(f"{name} is {plain} by another signature: load or unload {plain}")
    if not re.fullmatch(NAME_PATTERN, name):
        raise ModelNotFound(f"no model {name[:64]!r}")
    return name


def _entry(name: str, version: str, state: str, reason: str) -> dict[str, str]:
    return {"name": name, "version": version, "state": state, "reason": reason}
