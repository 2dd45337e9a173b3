"""docs/docker.md says what the record of the proof says, and names only files that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

from docker.prove.dockerfile import parse

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/docker.md").read_text()
RECORD = json.loads((ROOT / "benchmarks/results/docker-proof.json").read_text())


def test_sizes_are_the_record_s() -> None:
    sizes = RECORD["sizes"]
    packages = sizes["packages"]
    parts = {
        "ONNX Runtime": packages["onnxruntime"],
        "NumPy, with OpenBLAS": packages["numpy"],
        "Pillow": packages["pillow"],
        "uvloop": packages["uvloop"],
        "Pydantic": packages["pydantic"] + packages["pydantic_core"],
    }
    parts["the other packages"] = sizes["venv"] - sum(parts.values())
    parts["our code"] = sizes["ours"]
    parts["the models `cells` and `pcb`"] = sum(sizes["models"].values())
    parts["**all that is added to the base**"] = sizes["added_to_base"]
    table = dict(re.findall(r"^\| ([^|]+) \| (\d+) \|$", PAGE, re.MULTILINE))
    assert table == {name: str(round(size / 10**6)) for name, size in parts.items()}
    assert f"weighs {round(sizes['stand_in_base'] / 10**6)} MB" in PAGE


def test_the_record_is_of_a_clean_checkout_and_every_check_passed() -> None:
    assert RECORD["uncommitted_changes"] == []
    assert RECORD["checks"] and all(each["passed"] for each in RECORD["checks"])
    monitoring = json.loads((ROOT / "benchmarks/results/docker-monitoring.json").read_text())
    assert monitoring["checks"] and all(each["passed"] for each in monitoring["checks"])


def test_the_record_is_of_this_dockerfile() -> None:
    """Each of its instructions was done; change one, and `make docker-proof` has to run again."""
    _, stages = parse((ROOT / "docker/serve-cpu.Dockerfile").read_text())
    written = [str(each) for stage in stages for each in stage.instructions]
    assert [step["step"] for step in RECORD["steps"] if not step["step"].startswith("FROM ")] == written


def test_files_that_it_names_exist() -> None:
    named = re.findall(r"`((?:docker|tests|benchmarks|requirements)/[\w./-]+)`", PAGE)
    own = [name for name in named if name not in {"docker/.env", "docker/secrets"}]
    assert own and [name for name in own if not (ROOT / name).exists()] == []
