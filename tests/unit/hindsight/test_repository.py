"""Folders of models: which versions are found, in which order, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hindsight.errors import ArtifactError, ModelNotFound
from hindsight.repository import ModelRepository
from hindsight.versions import version_order
from tests.factories import make_tiny_artifact


@pytest.fixture
def models(tmp_path: Path) -> ModelRepository:
    """`cells` in three versions, `plain` without a folder for its version."""
    for version in ("1.9.0", "1.10.0", "1.10.0-rc.1"):
        make_tiny_artifact(tmp_path / "cells" / version, name="cells", version=version)
    make_tiny_artifact(tmp_path / "plain", name="plain", version="3")
    (tmp_path / ".being-copied").mkdir()
    (tmp_path / "README.md").write_text("not a model")
    return ModelRepository(tmp_path)


def test_every_version_is_found_the_newest_first(models: ModelRepository) -> None:
    found = [(stored.name, stored.version, stored.problem) for stored in models.scan()]
    assert found == [
        ("cells", "1.10.0", None),
        ("cells", "1.10.0-rc.1", None),
        ("cells", "1.9.0", None),
        ("plain", "3", None),
    ]


def test_the_newest_is_loaded_or_the_one_named(models: ModelRepository) -> None:
    assert models.load("cells").manifest.version == "1.10.0"
    assert models.load("cells", "1.9.0").manifest.version == "1.9.0"
    assert models.load("plain").manifest.version == models.load("plain", "3").manifest.version == "3"


@pytest.mark.parametrize(
    "name",
    ["..", ".", "../cells", "cells/1.9.0", "cells\\1.9.0", "", ".being-copied", "/etc", "a\0b", "nope"],
)
def test_a_name_never_leads_out_of_the_folder(models: ModelRepository, name: str) -> None:
    assert models.versions(name) == []
    with pytest.raises(ModelNotFound):
        models.load(name)


@pytest.mark.parametrize("version", ["..", "../../plain", "2", ""])
def test_a_version_that_is_not_there_is_named_with_those_that_are(
    models: ModelRepository, version: str
) -> None:
    if version:
        with pytest.raises(ModelNotFound, match=r"has version 1\.10\.0, 1\.10\.0-rc\.1, 1\.9\.0"):
            models.load("cells", version)


def test_a_broken_newest_version_is_not_passed_over(models: ModelRepository) -> None:
    (models.folder / "cells" / "1.10.0" / "weights.bin").unlink()
    problem = models.versions("cells")[0].problem
    assert problem is not None and "weights.bin" in problem
    with pytest.raises(ArtifactError, match=r"weights\.bin"):
        models.load("cells")
    assert models.load("cells", "1.9.0")


def test_a_changed_byte_is_found_by_load_alone(models: ModelRepository) -> None:
    (models.folder / "plain" / "weights.bin").write_bytes(b"\0\0\0\0")
    assert models.versions("plain")[0].problem is None
    with pytest.raises(ArtifactError, match="sha256"):
        models.load("plain")


def test_folders_are_named_as_their_manifests_say(models: ModelRepository, tmp_path: Path) -> None:
    (tmp_path / "plain").rename(tmp_path / "fancy")
    (tmp_path / "cells" / "1.9.0").rename(tmp_path / "cells" / "1.8.0")
    with pytest.raises(ArtifactError, match="named for model fancy, its manifest says plain"):
        models.load("fancy")
    with pytest.raises(ArtifactError, match=r"named for version 1\.8\.0, its manifest says 1\.9\.0"):
        models.load("cells", "1.8.0")


def test_an_empty_folder_and_a_version_for_no_path_are_problems(
    models: ModelRepository, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="neither"):
        models.load("empty")
    manifest = json.loads((tmp_path / "plain" / "manifest.json").read_text())
    (tmp_path / "plain" / "manifest.json").write_text(json.dumps({**manifest, "version": "3/../4"}))
    with pytest.raises(ArtifactError, match="a version is of letters"):
        models.load("plain")
    with pytest.raises(ArtifactError, match="cannot be read"):
        ModelRepository(tmp_path / "nowhere").scan()


def test_versions_are_ordered_as_semantic_versions() -> None:
    ordered = [
        "blue",
        "0.9",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
        "1.9",
        "v1.10",
        "2024.05.01",
        "2024.5.2",
    ]
    assert sorted(reversed(ordered), key=version_order) == ordered
    assert version_order("1.0")[:4] == version_order("1.0.0+build.5")[:4]
    version_order("9" * 5000)  # no number that Python refuses to read
