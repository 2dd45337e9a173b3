"""Where models can be loaded from: the repository folder, and the folders named with --model."""

from hindsight.artifact import Artifact, load_artifact
from hindsight.errors import ModelNotFound
from hindsight.repository import ModelRepository
from hindsight.versions import version_order
from service.registry import ModelRegistry


class ModelSources:
    """Reads the disk anew at every call, so call it in a thread. A name that the repository has is looked for
    there alone.
    """

    def __init__(self, repository: ModelRepository | None, registry: ModelRegistry) -> None:
        self._repository = repository
        self._paths = {(each.manifest.name, each.manifest.version): each.path.resolve() for each in registry}

    def names(self) -> list[str]:
        """Sorted. ArtifactError: the repository cannot be read."""
        stored = self._repository.names() if self._repository is not None else []
        return sorted({*stored, *(name for name, _ in self._paths)})

    def versions(self, name: str) -> dict[str | None, str | None]:
        """Version -> why it cannot be loaded, if so. A version is None where its files do not even say it."""
        stored = self._repository.versions(name) if self._repository is not None else []
        if stored:
            return {each.version: each.problem for each in stored}
        return {version: None for known, version in self._paths if known == name}

    def find(self, name: str, version: str | None) -> Artifact:
        """The newest version, or the one named; its hashes are not verified yet. Raises ModelNotFound,
        ArtifactError.
        """
        if self._repository is not None and self._repository.versions(name):
            return self._repository.load(name, version, verify=False)
        paths = [path for (known, _), path in self._paths.items() if known == name]
        found = [
            artifact
            for artifact in (load_artifact(path, verify=False) for path in paths)
            if artifact.manifest.name == name and version in (None, artifact.manifest.version)
        ]
        if not found:
            wanted = (
                f"model {name[:64]!r}" if version is None else f"version {version!r} of model {name[:64]!r}"
            )
            raise ModelNotFound(f"no {wanted} to load; GET /models lists what there is")
        return max(found, key=lambda artifact: version_order(artifact.manifest.version))

    def remember(self, artifact: Artifact) -> None:
        """It was loaded from its path; what lay there before is not to be had any more."""
        path = artifact.path.resolve()
        self._paths = {known: other for known, other in self._paths.items() if other != path}
        self._paths[artifact.manifest.name, artifact.manifest.version] = path
