"""The models this server serves, by name; the first is the default."""

import difflib
from collections.abc import Iterator, Sequence

from hindsight.artifact import Artifact, find_artifact
from hindsight.errors import ArtifactError, ModelNotFound


class ModelRegistry:
    """Verified artifacts by the name in their manifest."""

    def __init__(self, artifacts: Sequence[Artifact]) -> None:
        self._artifacts: dict[str, Artifact] = {}
        for artifact in artifacts:
            name = artifact.manifest.name
            if name in self._artifacts:
                raise ArtifactError(
                    f"two models are named {name!r}: {self._artifacts[name].path} and {artifact.path}"
                )
            self._artifacts[name] = artifact
        self.default = next(iter(self._artifacts))

    def __iter__(self) -> Iterator[Artifact]:
        return iter(self._artifacts.values())

    def get(self, name: str | None) -> Artifact:
        """The model called `name`, or the default. ModelNotFound names the nearest."""
        if name is None:
            return self._artifacts[self.default]
        if name not in self._artifacts:
            close = difflib.get_close_matches(name, self._artifacts, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ModelNotFound(f"no model {name[:64]!r}{hint}; this server has {', '.join(self._artifacts)}")
        return self._artifacts[name]


def load_models(names_or_paths: Sequence[str]) -> ModelRegistry:
    """Find and verify every model. Raises ModelNotFound, ArtifactError."""
    return ModelRegistry([find_artifact(each) for each in names_or_paths])
