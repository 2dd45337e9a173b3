"""Our Dockerfiles: every line is one that the proof understands, and the rules that an image must keep."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from docker.prove.dockerfile import Instruction, Stage, expand, pairs, parse
from docker.prove.ignore import Ignore

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
IMAGES = [path for path in FILES if path.name != "plugins.Dockerfile"]
BASE = re.compile(r"python:3\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?")


def last_stage(path: Path) -> Stage:
    return parse(path.read_text())[1][-1]


def only(stage: Stage, name: str) -> Instruction:
    (found,) = [each for each in stage.instructions if each.name == name]
    return found


def commands(path: Path) -> list[str]:
    return [
        each.arguments
        for stage in parse(path.read_text())[1]
        for each in stage.instructions
        if each.name == "RUN"
    ]


def test_there_are_four() -> None:
    assert [path.name for path in FILES] == [
        "plugins.Dockerfile",
        "serve-cpu.Dockerfile",
        "serve-gpu.Dockerfile",
        "train.Dockerfile",
    ]


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_the_base_names_a_version_and_a_release(path: Path) -> None:
    head, stages = parse(path.read_text())
    variables = dict(each.arguments.split("=", 1) for each in head)
    bases = {expand(stage.base, variables, stage.line) for stage in stages} - {stage.name for stage in stages}
    assert len(bases) == 1 and BASE.fullmatch(bases.pop())


def test_the_plugin_build_has_no_default_base() -> None:
    head, stages = parse((ROOT / "docker/plugins.Dockerfile").read_text())
    assert [each.arguments for each in head] == ["TENSORRT_IMAGE"]
    assert [stage.base for stage in stages] == ["${TENSORRT_IMAGE}", "scratch"]


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_it_ends_as_a_numbered_user_that_is_not_root(path: Path) -> None:
    stage = last_stage(path)
    user = only(stage, "USER")
    uid, gid = user.arguments.split(":")
    assert int(uid) >= 10000 and int(gid) >= 10000  # Kubernetes' runAsNonRoot wants a number
    later = [each.name for each in stage.instructions if each.line > user.line]
    assert not {"RUN", "COPY"} & set(later)


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_it_stops_at_sigterm_and_starts_without_a_shell(path: Path) -> None:
    stage = last_stage(path)
    assert only(stage, "STOPSIGNAL").arguments == "SIGTERM"
    assert only(stage, "ENTRYPOINT").exec_form == ["hindsight"]
    assert only(stage, "CMD").exec_form


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_it_says_what_it_is(path: Path) -> None:
    labels = dict(pairs(only(last_stage(path), "LABEL")))
    named = {"title", "description", "licenses", "base.name"}
    assert {name.removeprefix("org.opencontainers.image.") for name in labels} == named
    assert labels["org.opencontainers.image.base.name"] in path.read_text().split("ARG PYTHON_IMAGE=")[1]


@pytest.mark.parametrize("name", ["serve-cpu.Dockerfile", "serve-gpu.Dockerfile"])
def test_a_server_has_a_health_check_that_needs_no_curl(name: str) -> None:
    check = only(last_stage(ROOT / "docker" / name), "HEALTHCHECK")
    assert check.arguments == 'CMD ["python", "-m", "service.probe"]'
    assert check.flags.keys() == {"interval", "timeout", "start-period", "retries"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_installs_only_what_is_pinned(path: Path) -> None:
    """Every pip install names a constraint file of ours; nothing is fetched by address."""
    source = path.read_text()
    assert "curl" not in source and "wget" not in source and "://" not in source and ":latest" not in source
    for command in commands(path):
        for part in command.split("&&"):
            if "pip install" in part:
                assert re.search(r"-c requirements/(build|serve|gpu)\.txt|--no-deps", part), part
        assert "sudo" not in command and "chmod 777" not in command


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_the_extras_exist_and_their_constraints_are_copied(path: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = " ".join(commands(path))
    named = set(re.findall(r"--extra (\w+)", text))
    assert named and named <= extras.keys()
    assert not {"cpu", "gpu"} <= named
    copied = [
        each.arguments
        for stage in parse(path.read_text())[1]
        for each in stage.instructions
        if each.name == "COPY"
    ]
    for constraint in set(re.findall(r"requirements/\w+\.txt", text)):
        assert (ROOT / constraint).is_file()
        assert any(constraint in each for each in copied)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_copied_is_let_in(path: Path) -> None:
    """A COPY of something that .dockerignore keeps out would fail in Docker; here it fails first."""
    ignore = Ignore((ROOT / ".dockerignore").read_text())
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    let_in = [name for name in listed.splitlines() if not ignore.excludes(name)]
    for stage in parse(path.read_text())[1]:
        for each in stage.instructions:
            if each.name == "COPY" and "from" not in each.flags:
                for source in each.arguments.split()[:-1]:
                    assert any(name == source or name.startswith(source + "/") for name in let_in), source


def test_nothing_else_is_let_in() -> None:
    ignore = Ignore((ROOT / ".dockerignore").read_text())
    kept_out = [
        *(".git/config", ".env", "docker/.env", "docker/secrets/key", "id_rsa", ".venv/bin/python"),
        *("tests/conftest.py", "benchmarks/results/a.json", "shared/data/a.jpg", "models/mine/model.onnx"),
        "runs/a/best.safetensors",
        "hindsight/__pycache__/cli.cpython-311.pyc",
        "hindsight/models/cells/engines/gpu/model.engine",
    ]
    assert [name for name in kept_out if not ignore.excludes(name)] == []
    wanted = [
        "pyproject.toml",
        "requirements/serve.txt",
        "hindsight/models/cells/model.onnx",
        "service/page/page.js",
    ]
    assert [name for name in wanted if ignore.excludes(name)] == []


def test_the_three_recipes_differ_only_where_they_must() -> None:
    """What is the same in all three is written three times: this holds them together."""

    def project(path: Path) -> list[str]:
        (stage,) = [stage for stage in parse(path.read_text())[1] if stage.name == "project"]
        return [str(each) for each in stage.instructions]

    assert project(IMAGES[0]) == project(IMAGES[1]) == project(IMAGES[2])
