"""`hindsight pull hf://...` against a stand-in for the hub: what is fetched, what is refused, and that a
refusal or a stop leaves nothing half done.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hindsight.artifact import load_artifact
from hindsight.errors import ArtifactError, OptionError
from hindsight.hub.huggingface import HubSource
from hindsight.hub.rules import check_listing
from tests.factories import make_tiny_artifact
from tests.hub_stub import COMMIT, TOKEN, HubStub, hub_stub

REPOSITORY = Path(__file__).resolve().parents[2]
REPO = "hf://user/tiny"


@dataclass
class Puller:
    """Runs the program as a user does, with the stand-in as its hub."""

    hub: HubStub
    home: Path

    @property
    def models(self) -> Path:
        return self.home / "models"

    def environment(self, **variables: str) -> dict[str, str]:
        own = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HINDSIGHT_"))
        }
        return {
            **own,
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.home / "hf"),
            "HOME": str(self.home),
            "HINDSIGHT_MODELS": str(self.models),
            **variables,
        }

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "hindsight", *arguments],
            cwd=REPOSITORY,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, **variables: str) -> str:
        """stdout of a pull that succeeds."""
        program = self.start("pull", *arguments, **variables)
        out, err = program.communicate(timeout=120)
        assert (program.returncode, err) == (0, "")
        return out

    def refused(self, *arguments: str, **variables: str) -> str:
        """The one line of a pull that is refused; no model is installed by it."""
        program = self.start("pull", *arguments, **variables)
        out, err = program.communicate(timeout=120)
        assert (program.returncode, out) == (2, ""), err
        assert err.startswith("hindsight: ") and err.count("\n") == 1, err
        assert not list(self.models.glob("[!.]*/*")), "a model was installed"
        return err

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.models.glob(".*")) if self.models.is_dir() else []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_artifact(tmp_path / "exported", version="0.3.0").path


@pytest.fixture
def pull(tmp_path: Path, folder: Path) -> Iterator[Puller]:
    with hub_stub() as hub:
        hub.publish(folder)
        hub.put("README.md", b"---\nlicense: apache-2.0\n---\n")
        hub.put(".gitattributes", b"*.onnx filter=lfs\n")
        yield Puller(hub, tmp_path)


def manifest_of(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def test_a_model_is_pulled_and_found_by_its_name(pull: Puller, folder: Path) -> None:
    place = pull.models / "tiny" / "0.3.0"
    assert str(place) in pull(REPO)
    pulled = load_artifact(place)
    assert pulled.manifest == load_artifact(folder).manifest
    assert pull.leftovers() == []
    assert not (place / "README.md").exists()
    assert "README.md" not in pull.hub.downloads and ".gitattributes" not in pull.hub.downloads
    program = pull.start("models", "--json")
    listed = {entry["name"]: entry for entry in json.loads(program.communicate(timeout=60)[0])}
    assert listed["tiny"]["path"] == str(place)
    assert listed["tiny"]["origin"]["source"] == REPO and listed["tiny"]["origin"]["commit"] == COMMIT
    table = pull.start("models").communicate(timeout=60)[0]
    assert "from" in table and "hf://" in table
    found = pull.start("detect", str(folder / "samples" / "tiles.jpg"), "--model", "tiny@0.3.0", "--json")
    out, err = found.communicate(timeout=60)
    assert json.loads(out)["version"] == "0.3.0", err


def test_what_is_there_is_not_fetched_again(pull: Puller) -> None:
    pull(REPO)
    pull.hub.requests.clear()
    assert json.loads(pull(REPO, "--json"))["already"] is True
    assert pull.hub.downloads == ["manifest.json"]


def test_a_revision_is_pinned_to_its_commit(pull: Puller) -> None:
    said = json.loads(pull(REPO + "@v1", "--json"))
    assert said["commit"] == COMMIT
    assert pull.hub.requests[0][0] == "/api/models/user/tiny/revision/v1"
    assert all(f"/resolve/{COMMIT}/" in path for path, _ in pull.hub.requests[1:])


def test_a_dry_run_shows_sizes_and_fetches_the_manifest_alone(pull: Puller) -> None:
    said = pull(REPO, "--dry-run")
    assert "model.onnx" in said and "MB" in said and "Apache-2.0" in said
    assert pull.hub.downloads == ["manifest.json"] and not pull.models.exists()


def test_without_a_folder_of_models_the_users_own_is_used(pull: Puller, tmp_path: Path) -> None:
    said = pull(REPO, HINDSIGHT_MODELS="")
    place = tmp_path / ".local/share/hindsight/models/tiny/0.3.0"
    assert str(place) in said and (place / "model.onnx").is_file()
    program = pull.start("models", "--json", HINDSIGHT_MODELS="")
    assert str(place) in program.communicate(timeout=60)[0]


# Who may, and where


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("hf://user/none", "no such repository, or a private one"),
        (REPO + "@v9", "no revision 'v9'"),
        ("hf://user/repo/more", "expected hf://user/repo"),
        ("nowhere.zip", "there is no 'nowhere.zip'"),
    ],
)
def test_a_wrong_name_is_one_line(pull: Puller, source: str, reason: str) -> None:
    assert reason in pull.refused(source)


@pytest.mark.parametrize(
    "url",
    [
        "hf://",
        "hf://user",
        "hf://../../etc",
        "hf://user/repo@",
        "hf://user/repo@a b",
        "hf://a/b@-c",
        "hf://a/é",
    ],
)
def test_what_is_no_repository_is_refused(url: str) -> None:
    with pytest.raises(OptionError, match="expected hf://user/repo"):
        HubSource(url)


def test_a_private_repository_needs_the_environments_token(pull: Puller) -> None:
    pull.hub.private = True
    assert "HF_TOKEN" in pull.refused(REPO)
    pull(REPO, HF_TOKEN=TOKEN)


def test_a_gated_repository_says_what_to_do(pull: Puller) -> None:
    pull.hub.gated = True
    assert "consent" in pull.refused(REPO)


def test_the_token_does_not_follow_a_redirect_to_another_host(pull: Puller) -> None:
    """Large files lie on a host of their own, whose addresses are signed."""
    with hub_stub() as storage:
        storage.served = pull.hub.served
        pull.hub.private, pull.hub.elsewhere = True, storage.url
        pull(REPO, HF_TOKEN=TOKEN)
        assert storage.requests
        assert all("authorization" not in headers for _, headers in storage.requests)
        assert all(headers.get("authorization") == f"Bearer {TOKEN}" for _, headers in pull.hub.requests)


def test_offline_is_said(pull: Puller) -> None:
    assert "HF_HUB_OFFLINE" in pull.refused(REPO, HF_HUB_OFFLINE="1")
    assert pull.hub.requests == []


def test_a_hub_that_is_not_there_is_said(pull: Puller) -> None:
    said = pull.refused(REPO, HF_ENDPOINT="http://127.0.0.1:9")
    assert "cannot be reached" in said and "zip file or a folder" in said


# What breaks on the way


def test_a_download_that_breaks_off_goes_on(pull: Puller) -> None:
    pull.hub.cuts, pull.hub.cut_after = 2, 1000
    pull(REPO)
    ranges = [headers["range"] for _, headers in pull.hub.requests if "range" in headers]
    assert ranges[0] == "bytes=1000-"


def test_a_pull_that_failed_goes_on_where_it_was(pull: Puller) -> None:
    pull.hub.cuts, pull.hub.cut_after = 5, 100
    assert "goes on from there" in pull.refused(REPO)
    assert len(pull.leftovers()) == 1
    pull.hub.requests.clear()
    pull(REPO)
    assert pull.leftovers() == []
    ranges = {path.rpartition("/")[2]: headers.get("range") for path, headers in pull.hub.requests}
    assert ranges["model.onnx"] == "bytes=500-"
    assert "MODEL_CARD.md" not in ranges  # it was there


def test_a_server_error_is_waited_out(pull: Puller) -> None:
    program = pull.start("pull", REPO)
    while not pull.hub.downloads:
        assert program.poll() is None
        time.sleep(0.01)
    pull.hub.broken = 1
    _, err = program.communicate(timeout=120)
    assert (program.returncode, err) == (0, "")


def test_ctrl_c_leaves_what_the_next_pull_goes_on_with(pull: Puller) -> None:
    pull.hub.cuts, pull.hub.cut_after = 10**6, 10
    program = pull.start("pull", REPO)
    while pull.hub.downloads.count("model.onnx") < 2:
        assert program.poll() is None
        time.sleep(0.02)
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=60)
    assert program.returncode not in (0, 2) and "Traceback" not in err
    assert not list(pull.models.glob("[!.]*/*"))
    pull.hub.cuts = 0
    pull(REPO)


# Hostile repositories


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "model.pkl",
        "model.pt",
        "weights.ckpt",
        "model.joblib",
        "arrays.npy",
        "handler.py",
        "run.sh",
        "engines/gpu/model.engine",
        "origin.json",
        "samples/page.html",
        "samples/deeper/photo.jpg",
        ".hidden",
        "../outside.onnx",
        "samples/../../outside.jpg",
        "/etc/passwd.onnx",
        "a\\b.onnx",
        "line\nbreak.onnx",
        "null\x00.onnx",
        "dir/model.onnx",
        "CON:.onnx",
        "-option.onnx",
        "a" * 300 + ".onnx",
        "ünïcode.onnx",
        "",
    ],
)
def test_what_is_no_models_file_is_refused_before_anything_is_fetched(
    hub: HubStub, name: str, folder: Path, tmp_path: Path
) -> None:
    """In this process: twenty-five programs would take a minute to start."""
    listed = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }
    check_listing(listed, "it")
    with pytest.raises(ArtifactError, match="has no use for"):
        check_listing({**listed, name: 5}, "it")


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with hub_stub() as running:
        yield running


def test_a_pickle_beside_the_model_stops_the_pull(pull: Puller) -> None:
    pull.hub.put("pytorch_model.bin", b"\x80\x04.")
    said = pull.refused(REPO)
    assert "'pytorch_model.bin'" in said and "nothing was fetched" in said
    assert pull.hub.downloads == []


def rewrite(pull: Puller, folder: Path, **changes: object) -> None:
    """The manifest that the hub serves, with `changes`."""
    pull.hub.put("manifest.json", json.dumps({**manifest_of(folder), **changes}).encode())


@pytest.mark.parametrize(
    "name", ["../../outside.onnx", "/etc/passwd", "engines/x", "manifest.json", "samples/../a.jpg"]
)
def test_a_manifest_that_leads_elsewhere_is_refused(
    pull: Puller, folder: Path, name: str, tmp_path: Path
) -> None:
    files = dict(manifest_of(folder)["files"])  # type: ignore[call-overload]
    rewrite(pull, folder, files={**files, name: "0" * 64})
    pull.refused(REPO)
    assert pull.hub.downloads == ["manifest.json"] and pull.leftovers() == []
    assert not (tmp_path / "outside.onnx").exists()


@pytest.mark.parametrize(
    "change", [{"name": "../x"}, {"version": "../../x"}, {"version": "a/b"}, {"name": "a" * 200}]
)
def test_a_name_that_leads_elsewhere_is_refused(pull: Puller, folder: Path, change: dict[str, str]) -> None:
    rewrite(pull, folder, **change)
    pull.refused(REPO)
    assert pull.hub.downloads == ["manifest.json"] and pull.leftovers() == []


def test_a_file_beside_what_the_manifest_lists_is_refused(pull: Puller) -> None:
    pull.hub.put("another.onnx", b"x")
    assert "not listed in its manifest: 'another.onnx'" in pull.refused(REPO)
    assert pull.hub.downloads == ["manifest.json"]


def test_a_file_that_the_manifest_lists_must_be_there(pull: Puller) -> None:
    del pull.hub.listed["weights.bin"]
    assert "lists what is not there: 'weights.bin'" in pull.refused(REPO)
    assert pull.hub.downloads == ["manifest.json"]


def test_a_huge_model_is_refused_by_its_list(pull: Puller) -> None:
    pull.hub.listed["weights.bin"] = 10**13
    said = pull.refused(REPO)
    assert "weights.bin alone 10000.00 GB" in said and "--max-size" in said
    assert pull.hub.downloads == ["manifest.json"]


def test_a_file_longer_than_its_list_says_is_cut_off(pull: Puller) -> None:
    """As much is read as was listed, and no more, however much comes."""
    pull.hub.served["weights.bin"] = b"x" * 30_000_000
    assert "longer than the 4 bytes that were listed" in pull.refused(REPO)
    assert pull.leftovers() == []


def test_a_file_that_was_changed_since_it_was_listed_is_refused(pull: Puller) -> None:
    good = pull.hub.served["model.onnx"]
    pull.hub.served["model.onnx"] = good[:-1] + bytes([good[-1] ^ 1])
    assert "not the file its manifest lists" in pull.refused(REPO)
    assert pull.leftovers() == []


def test_a_file_shorter_than_its_list_says_is_refused(pull: Puller) -> None:
    pull.hub.served["model.onnx"] = b"short"
    assert "keeps breaking off" in pull.refused(REPO)


def test_a_file_that_is_gone_since_it_was_listed_is_said(pull: Puller) -> None:
    del pull.hub.served["model.onnx"]
    assert "was listed and is not there" in pull.refused(REPO)


@pytest.mark.parametrize("text", [b"[]", b"{}", b"not json", b"[" * 100_000, b"{" + b" " * 5_000_000])
def test_a_manifest_that_is_none_is_refused(pull: Puller, text: bytes) -> None:
    pull.hub.put("manifest.json", text)
    pull.refused(REPO)
    assert set(pull.hub.downloads) <= {"manifest.json"}


def test_a_manifest_longer_than_its_list_says_is_cut_off(pull: Puller) -> None:
    pull.hub.put("manifest.json", b"{" + b" " * 20_000_000, size=100)
    assert "longer than" in pull.refused(REPO)


def test_another_model_in_its_place_is_left_alone(pull: Puller, folder: Path) -> None:
    other = make_tiny_artifact(pull.models / "tiny" / "0.3.0", version="0.3.0", integrity=0.1)
    before = manifest_of(other.path)
    program = pull.start("pull", REPO)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 2 and "another model of that name and version" in err
    assert manifest_of(other.path) == before
    shutil.rmtree(pull.models)
    make_tiny_artifact(pull.models / "tiny", version="0.3.0")
    _, err = pull.start("pull", REPO).communicate(timeout=60)
    assert "is itself a model" in err
