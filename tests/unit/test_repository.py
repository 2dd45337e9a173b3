"""The repository keeps the promises its README, constraint files and paper index make."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hindsight.runtime import runtime_names
from hindsight.version import __version__

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BINARY = {".png", ".jpg", ".jpeg", ".webp", ".ico", ".onnx", ".bin"}
MAX_TRACKED_BYTES = 64 * 2**20  # two shipped models of at most 25 MB each, and the rest

# One-letter classes, so that this file does not hold what it looks for.
REGISTRY_HOST = re.compile(r"py[p]i\.org|python[h]osted|npm[j]s\.(org|com)|deb\.[d]ebian")
MACHINE_PATH = re.compile("(^|[^a-z])/(work|root)/")


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def pins(name: str) -> dict[str, str]:
    """Package -> version of one constraint file; anything but `name==version [; marker]` fails."""
    found = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        match = re.fullmatch(r"([a-z0-9-]+)==([\w.+!]+)( ; [^#]+)?", line)
        assert match, f"requirements/{name}: not a pin: {line!r}"
        found[match[1]] = match[2]
    return found


def required(*extras: str) -> set[str]:
    project = PYPROJECT["project"]
    lines = [
        *project["dependencies"],
        *(line for e in extras for line in project["optional-dependencies"][e]),
    ]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_ci_runs_the_readmes_test_command() -> None:
    readme_blocks = re.findall(
        r"```(?:sh|bash|console)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    readme_lines = {line.split("#")[0].strip() for block in readme_blocks for line in block.splitlines()}
    assert {"make serve", "make test"} <= readme_lines
    last_command = (ROOT / ".ci/run").read_text().strip().splitlines()[-1]
    assert last_command.endswith(" make test")


@pytest.mark.parametrize("pattern", [REGISTRY_HOST, MACHINE_PATH], ids=["registry host", "machine path"])
def test_no_tracked_file_names_a_registry_or_a_machine(pattern: re.Pattern[str]) -> None:
    hits = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        if path.suffix not in BINARY
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not hits


def test_tracked_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in tracked_files()) < MAX_TRACKED_BYTES


def test_constraint_files_pin_every_direct_dependency() -> None:
    assert required("cpu") <= pins("serve.txt").keys()
    assert required("cpu", "train", "export", "dev") <= pins("all.txt").keys()
    assert required("gpu", "train", "export", "tensorrt", "dev") <= pins("gpu.txt").keys()
    assert {"hatchling", "uv"} <= pins("build.txt").keys()


def test_what_serves_is_what_was_tested() -> None:
    tested = pins("all.txt")
    assert {name: tested.get(name) for name in pins("serve.txt")} == pins("serve.txt")


def test_the_cpu_server_needs_no_torch() -> None:
    assert not {"torch", "torchvision", "timm"} & pins("serve.txt").keys()


@pytest.mark.parametrize("name", PYPROJECT["project"]["entry-points"]["hindsight.commands"])
def test_every_subcommand_loads(name: str) -> None:
    (installed,) = entry_points(group="hindsight.commands", name=name)
    assert installed.value == PYPROJECT["project"]["entry-points"]["hindsight.commands"][name]
    assert callable(installed.load())


@pytest.mark.parametrize("name", PYPROJECT["project"]["entry-points"]["hindsight.runtimes"])
def test_every_runtime_loads(name: str) -> None:
    (installed,) = entry_points(group="hindsight.runtimes", name=name)
    assert installed.value == PYPROJECT["project"]["entry-points"]["hindsight.runtimes"][name]
    assert callable(installed.load())
    assert name in runtime_names()


def test_the_changelog_opens_with_the_current_version_after_what_is_unreleased() -> None:
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert __version__ == next(name for name in sections[:2] if name != "Unreleased")


@pytest.mark.parametrize("page", ["readme", "experiments_page", "serving_page"])
def test_numbers_come_from_committed_results(page: str) -> None:
    check = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{page}", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stderr


def test_the_readmes_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text())
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert targets and not missing


EQUATION = re.compile(r"\b(DIR|DRCNN) Eq\. \((\d+)\)")


def test_the_paper_index_names_every_equation_in_the_code_and_no_other() -> None:
    index = (ROOT / "docs/papers.md").read_text()
    code = [
        path
        for path in tracked_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] != "tests"
    ]
    in_code = {cited for path in code for cited in EQUATION.findall(path.read_text())}
    assert in_code
    assert set(EQUATION.findall(index)) == in_code


def test_the_paper_index_names_only_files_that_exist() -> None:
    named = set(
        re.findall(
            r"`((?:model|training|export|hindsight)/[\w/]+\.(?:py|toml))`",
            (ROOT / "docs/papers.md").read_text(),
        )
    )
    assert named
    assert not [name for name in named if not (ROOT / name).is_file()]


OURS = {"hindsight", "model", "training", "export", "service"}
EXTRAS_OF = {
    "hindsight": ["cpu", "gpu", "hub", "supervision", "video"],
    "service": ["cpu", "grpc", "otel"],
    "model": ["train"],
    "training": ["cpu", "train"],
    "export": ["cpu", "export"],
}


@pytest.mark.parametrize("package", EXTRAS_OF)
def test_a_package_imports_only_what_its_extras_install(package: str) -> None:
    """A module that arrives only because some dependency happens to bring it would break without notice."""
    distributions = packages_distributions()
    allowed = required(*EXTRAS_OF[package])
    for path in (ROOT / package).rglob("*.py"):
        for module in imported_modules(path) - OURS - sys.stdlib_module_names:
            providers = {canonicalize_name(name) for name in distributions.get(module, [module])}
            assert providers & allowed, f"{path.relative_to(ROOT)} imports {module}, of {sorted(providers)}"


def imported_modules(path: Path) -> set[str]:
    """The top-level names of every absolute import in a file, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found
