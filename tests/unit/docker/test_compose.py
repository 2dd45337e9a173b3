"""compose.yaml, .env.example and the Kubernetes example: legal, bounded, in step with the settings."""

from __future__ import annotations

import io
import json
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from PIL import Image

from docker.prove.compose import bounds_of, interpolated
from docker.prove.dockerfile import parse
from hindsight.artifact import find_artifact
from hindsight.decode import footprint
from hindsight.options import DetectOptions
from hindsight.preprocess import letterbox
from service.blocks import packed_size
from service.settings import Settings
from service.work import Work, call_for

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "docker/compose.yaml"
SERVERS = ["hindsight", "hindsight-gpu"]
MIB = 2**20
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "": 1}


def services() -> dict[str, Any]:
    found: dict[str, Any] = interpolated(yaml.safe_load(COMPOSE.read_text()))["services"]
    return found


def size(text: str) -> int:
    match = re.fullmatch(r"(\d+)(\w*)", text)
    assert match
    return int(match[1]) * _UNITS[match[2]]


def default(setting: str) -> Any:
    return Settings.model_fields[setting].default


def manifests() -> dict[str, Any]:
    text = (ROOT / "docker/kubernetes/hindsight.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def test_it_fits_the_compose_specification() -> None:
    """The schema of the Compose Specification, as check-jsonschema carries it."""
    text = files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text()
    schema = json.loads(text)
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    document = interpolated(yaml.safe_load(COMPOSE.read_text()))
    assert not list(validator(schema).iter_errors(document))
    document["services"]["hindsight"]["helthcheck"] = {}
    assert list(validator(schema).iter_errors(document))  # the schema does look


@pytest.mark.parametrize("name", [*SERVERS, "prometheus", "grafana"])
def test_every_service_is_bounded(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True and service["init"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service and "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    host = service.get("network_mode"), service.get("pid"), service.get("ipc")
    assert host == (None, None, None)
    image = service["image"]
    assert re.fullmatch(r"[a-z/]+:[a-z0-9][\w.]*", image) and not image.endswith(":latest")


@pytest.mark.parametrize("name", [*SERVERS, "prometheus", "grafana"])
def test_every_service_has_a_health_check(name: str) -> None:
    service = services()[name]
    if "build" in service:
        stage = parse((ROOT / service["build"]["dockerfile"]).read_text())[1][-1]
        assert "HEALTHCHECK" in {each.name for each in stage.instructions}
    else:
        assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVERS)
def test_files_and_folders_that_are_named_exist(name: str) -> None:
    found = services()
    build = found[name]["build"]
    assert (COMPOSE.parent / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    for service in ("prometheus", "grafana"):
        for volume in found[service]["volumes"]:
            assert volume["type"] == "volume" or (COMPOSE.parent / volume["source"]).is_dir()
            assert volume["type"] == "volume" or volume["read_only"] is True


@pytest.mark.parametrize("name", SERVERS)
def test_models_are_mounted_read_only(name: str) -> None:
    (models,) = [each for each in services()[name]["volumes"] if each["target"] == "/models"]
    assert models["read_only"] is True and models["bind"] == {"create_host_path": False}


@pytest.mark.parametrize("name", SERVERS)
def test_variables_are_settings_of_the_server(name: str) -> None:
    stage = parse((ROOT / services()[name]["build"]["dockerfile"]).read_text())[1][-1]
    text = " ".join(each.arguments for each in stage.instructions if each.name == "ENV")
    given = {*services()[name]["environment"], *re.findall(r"(HINDSIGHT_\w+)=", text)}
    others = {"HINDSIGHT_MODELS", "HINDSIGHT_CACHE"}  # of hindsight/artifact.py and model/kernels/compile.py
    known = {f"HINDSIGHT_{field.upper()}" for field in Settings.model_fields} | others
    assert given and given <= known


def test_the_gpu_is_reserved_for_the_gpu_server_alone() -> None:
    found = services()
    (device,) = found["hindsight-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}
    assert "reservations" not in found["hindsight"]["deploy"]["resources"]
    assert found["hindsight"]["profiles"] == ["cpu"] and found["hindsight-gpu"]["profiles"] == ["gpu"]


def test_the_example_settings_are_the_defaults() -> None:
    """Every variable of compose.yaml stands in .env.example with its default, and no other."""
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text().split("hindsight-gpu:")[0]))
    defaults |= {
        name: value
        for name, value in re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text())
        if name not in defaults
    }
    lines = (ROOT / "docker/.env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert example.pop("COMPOSE_PROFILES") == "cpu,monitoring"
    assert example == defaults


@pytest.mark.parametrize("name", SERVERS)
def test_stopping_gives_requests_their_time(name: str) -> None:
    worker_end = 10
    assert (
        float(services()[name]["stop_grace_period"].removesuffix("s"))
        >= default("shutdown_timeout") + worker_end
    )


def full_batch(rule_hw: tuple[int, int], model: str, operation: str) -> int:
    """Bytes of /dev/shm that one device's largest batch takes: inputs and outputs, in whole MiB."""
    artifact = find_artifact(model)
    manifest = artifact.manifest
    image = letterbox(np.zeros((*rule_hw, 3), np.uint8), manifest.resize)
    if operation == "detect":
        work = Work(artifact, "detect", image, DetectOptions.resolve(manifest))
    else:
        work = Work(artifact, "rescore", image, boxes=np.zeros((manifest.max_rescore_boxes, 4), np.float32))
    call = call_for([work] * default("max_batch"))
    return sum(math.ceil(each / MIB) * MIB for each in (packed_size(call.inputs), call.reply_bytes))


@pytest.mark.parametrize("name", SERVERS)
def test_shared_memory_holds_what_the_comment_says(name: str) -> None:
    """Twice a full batch (a block that grows), twice again (a model reloaded beside it), two devices."""
    shared = size(services()[name]["shm_size"])
    for model in ("cells", "pcb"):
        manifest = find_artifact(model).manifest
        hw = (manifest.resize.short_side, manifest.resize.long_side)
        for operation in ("detect", "rescore"):
            assert 2 * 2 * 2 * full_batch(hw, model, operation) <= shared
    large = math.ceil(8 * 800 * 1344 * 3 / MIB) + math.ceil(8 * 100 * (44 + 3136) / MIB)
    assert large == 28 and 2 * 2 * 2 * large * MIB <= shared
    assert size("64m") < 2 * 2 * large * MIB  # Docker's default would not do


def test_shared_memory_and_the_rest_fit_the_memory_limit() -> None:
    for name, processes in (("hindsight", 700 * 10**6), ("hindsight-gpu", 6 * 10**9)):
        service = services()[name]
        images = int(service["environment"].get("HINDSIGHT_MAX_DECODED_BYTES", default("max_decoded_bytes")))
        total = default("max_buffered_bytes") + images + size(service["shm_size"]) + processes
        assert total <= size(service["deploy"]["resources"]["limits"]["memory"]), name
        assert images >= footprint_of_the_largest_photo()


def footprint_of_the_largest_photo() -> int:
    """Bytes that decoding one of `max_pixels` takes at most; less in all would refuse it for good."""
    sample = io.BytesIO()
    Image.new("RGBA", (100, 100)).save(sample, "PNG")
    each_pixel = footprint(sample.getvalue()).working_bytes // (100 * 100)
    return each_pixel * int(default("max_pixels"))


def test_the_proof_reads_the_same_bounds() -> None:
    bounds = bounds_of(COMPOSE, "hindsight")
    assert bounds.shm_size == services()["hindsight"]["shm_size"]
    assert [folder for folder, _ in bounds.tmpfs] == ["/tmp"]
    assert bounds.environment["HINDSIGHT_MODEL"] == "cells"


def test_bounds_that_are_missing_are_an_error(tmp_path: Path) -> None:
    weak = COMPOSE.read_text().replace("read_only: true", "read_only: false", 1)
    (tmp_path / "compose.yaml").write_text(weak)
    with pytest.raises(ValueError, match="expected read_only"):
        bounds_of(tmp_path / "compose.yaml", "hindsight")


def test_kubernetes_probes_ask_the_routes_that_exist() -> None:
    (container,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    paths = {
        name: container[name]["httpGet"]["path"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] > default("start_timeout")


def test_kubernetes_stops_after_the_server_has_drained() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {each["name"]: each["value"] for each in container["env"]}
    before = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = float(env["HINDSIGHT_SHUTDOWN_TIMEOUT"])
    assert drain == default("shutdown_timeout")
    assert pod["terminationGracePeriodSeconds"] >= before + drain + 10
    known = {f"HINDSIGHT_{field.upper()}" for field in Settings.model_fields}
    assert env.keys() <= known


def test_kubernetes_bounds_are_compose_s() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    assert pod["enableServiceLinks"] is False  # HINDSIGHT_PORT=tcp://... would be read as a setting
    volumes = {each["name"]: each for each in pod["volumes"]}
    mounts = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
    assert mounts.keys() == {"/models", "/tmp", "/dev/shm"}
    assert size(mounts["/dev/shm"]["emptyDir"]["sizeLimit"]) == size(services()["hindsight"]["shm_size"])
    env = {each["name"]: each["value"] for each in container["env"]}
    bytes_of_images = services()["hindsight"]["environment"]["HINDSIGHT_MAX_DECODED_BYTES"]
    assert int(env["HINDSIGHT_MAX_DECODED_BYTES"]) == int(bytes_of_images)
    limits = container["resources"]["limits"]
    assert size(limits["memory"]) == size(services()["hindsight"]["deploy"]["resources"]["limits"]["memory"])


def test_the_kubernetes_service_finds_the_pods() -> None:
    found = manifests()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"].items() <= labels.items()
    assert found["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (port,) = found["Service"]["spec"]["ports"]
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert port["targetPort"] in {each["name"] for each in container["ports"]}
