"""The models that are served now, by name and version. One object for the whole life of the server; `replace`
changes what it holds at one instant.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hindsight.artifact import Artifact, find_artifact
from hindsight.errors import ArtifactError, ModelNotFound
from hindsight.hints import did_you_mean
from hindsight.repository import ModelRepository
from hindsight.versions import version_order

Problems = dict[tuple[str, str | None], str]
_MOVE_ON = "mend it, take it out of the folder, or start with --skip-bad-models"


class ModelRegistry:
    """Verified artifacts by the name and version in their manifests.

    default: the name that a request means which names none; that of the first artifact, for good. problems:
    why models of the folder were skipped at the start, by (name, version).
    """

    def __init__(self, artifacts: Sequence[Artifact], problems: Problems | None = None) -> None:
        self._by_name: dict[str, list[Artifact]] = {}
        self.default = artifacts[0].manifest.name
        self.problems = problems or {}
        self.replace(artifacts)

    def __iter__(self) -> Iterator[Artifact]:
        """Every version of every model; the newest of each first."""
        return (artifact for versions in self._by_name.values() for artifact in versions)

    @property
    def names(self) -> list[str]:
        """The default first."""
        return list(self._by_name)

    def versions(self, name: str) -> list[Artifact]:
        """Of model `name`, the newest first, which is its default; empty where there is none."""
        return list(self._by_name.get(name, ()))

    def get(self, name: str | None) -> Artifact:
        """The newest version of a model (`NAME`), a certain one (`NAME@VERSION`), or the default model.
        ModelNotFound names the nearest.
        """
        wanted, _, version = (self.default if name is None else name).partition("@")
        if wanted not in self._by_name:
            raise ModelNotFound(
                f"no model {wanted[:64]!r}{did_you_mean(wanted, self._by_name)}; this server has "
                f"{', '.join(self._by_name)}"
            )
        versions = self._by_name[wanted]
        if name is None or "@" not in name:
            return versions[0]
        for artifact in versions:
            if artifact.manifest.version == version:
                return artifact
        loaded = ", ".join(artifact.manifest.version for artifact in versions)
        raise ModelNotFound(
            f"version {version[:64]!r} of model {wanted!r} is not loaded, {loaded} is (GET /models/{wanted})"
        )

    def replace(self, artifacts: Sequence[Artifact]) -> None:
        """Serve these from now on. ArtifactError: two of one name and version; nothing is changed then."""
        by_name: dict[str, list[Artifact]] = {name: [] for name in (self.default, *self._by_name)}
        for artifact in artifacts:
            manifest = artifact.manifest
            versions = by_name.setdefault(manifest.name, [])
            for other in versions:
                if other.manifest.version == manifest.version:
                    raise ArtifactError(
                        f"two models are named {manifest.name!r} and have version {manifest.version!r}: "
                        f"{other.path} and {artifact.path}"
                    )
            versions.append(artifact)
        for versions in by_name.values():
            versions.sort(key=lambda artifact: version_order(artifact.manifest.version), reverse=True)
        self._by_name = {name: versions for name, versions in by_name.items() if versions}


def load_models(
    names_or_paths: Sequence[str], folder: Path | None = None, *, skip_bad: bool = False
) -> ModelRegistry:
    """Find and verify the models named, and the newest version of each other model in the repository
    `folder`.

    A name may be `NAME@VERSION` where the repository has it. The first is the default; without names, the
    first of the folder. Raises ModelNotFound, ArtifactError; with `skip_bad` not for a bad one in the folder.
    """
    repository = ModelRepository(folder) if folder is not None else None
    stored_names = repository.names() if repository is not None else []
    artifacts: list[Artifact] = []
    for each in names_or_paths:
        name, _, version = each.partition("@")
        if repository is not None and name in stored_names:
            artifacts.append(repository.load(name, version or None))
        else:
            artifacts.append(find_artifact(each))
    named = {artifact.manifest.name for artifact in artifacts}
    problems: Problems = {}
    for name in stored_names:
        if repository is None or name in named:
            continue
        try:
            artifacts.append(repository.load(name))
        except ArtifactError as error:
            if not skip_bad:
                raise ArtifactError(f"{error}; {_MOVE_ON}") from error
            problems[name, repository.versions(name)[0].version] = str(error)
    if not artifacts:
        found = f", only bad ones: {'; '.join(problems.values())}" if problems else ""
        raise ModelNotFound(f"{folder}: no model to serve there{found}")
    return ModelRegistry(artifacts, problems)
