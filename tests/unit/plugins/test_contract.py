"""The contract files, the code of both forms and the ONNX schemas say the same."""

from __future__ import annotations

import importlib
import itertools
import tomllib
from pathlib import Path
from typing import Any

import onnx
import pytest

from export.onnx_deform import NAMES as WITHOUT_PLUGIN
from export.onnx_domain import DOMAIN, PLUGIN_ATTRIBUTES
from export.onnx_ops import register_schemas
from export.plugins.python import register_plugins
from export.plugins.python.nms import KEY_BYTES
from export.plugins.python.operator import NAMESPACE, VERSION, Tensor, Value
from export.plugins.python.register import KINDS
from export.plugins.python.roi_align import MAX_ELEMENTS, MAX_LEVELS
from model.kernels.compile import KERNELS
from model.kernels.params import MAX_BLOCKS, SHARED_KEYS, VECTOR_BYTES
from tests.unit.plugins.forms import FORMATS, TYPES, CppForm, Form, PythonForm

PLUGINS = Path(__file__).parents[3] / "export" / "plugins"
CONTRACT = tomllib.loads((PLUGINS / "python" / "contract.toml").read_text())
ONNX_TYPES = {
    "tensor(float)": "FLOAT",
    "tensor(float16)": "HALF",
    "tensor(bfloat16)": "BF16",
    "tensor(bool)": "BOOL",
}
SIZES = {"B": 2, "N": 5, "C": 3, "h": 8, "w": 6, "s": 7, "G": 2, "K": 4, "1": 1, "4": 4}
VALUES: dict[str, Value] = {
    "output_size": 7,
    "sampling_ratio": 2,
    "aligned": 1,
    "method": "gaussian",
    "sigma": 0.25,
    "min_score": 0.125,
    "steps": 9,
}


def expanded() -> dict[str, dict[str, Any]]:
    """One entry an operator; its inputs one by one, each with its formats."""
    found = {}
    for plugin in CONTRACT["plugin"]:
        for levels in plugin.get("levels", [0]):
            inputs: list[dict[str, Any]] = []
            for entry in plugin["input"]:
                if "{level}" in entry["name"]:
                    inputs += [
                        {**entry, "name": entry["name"].format(level=level)} for level in range(1, levels)
                    ]
                else:
                    inputs.append(entry)
            found[plugin["name"].format(L=levels)] = {**plugin, "input": inputs}
    return found


EXPANDED = expanded()


def values_for(name: str) -> dict[str, Value]:
    strides = tuple(4 * 2**level for level in range(len(EXPANDED[name]["input"]) - 1))
    return {key: strides if key == "strides" else VALUES[key] for key in EXPANDED[name]["attributes"]}


def test_both_folders_hold_the_same_contract() -> None:
    assert tomllib.loads((PLUGINS / "cpp" / "contract.toml").read_text()) == CONTRACT


def test_the_runtime_finds_the_plugins_by_an_entry_point() -> None:
    project = tomllib.loads((PLUGINS.parents[1] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["hindsight.tensorrt_plugins"].keys() == {"hindsight"}
    module, _, function = project["entry-points"]["hindsight.tensorrt_plugins"]["hindsight"].partition(":")
    assert getattr(importlib.import_module(module), function) is register_plugins


def test_limits_and_names_are_the_codes() -> None:
    assert (CONTRACT["namespace"], CONTRACT["version"]) == (NAMESPACE, VERSION)
    wanted = {"plugin_namespace": NAMESPACE, "plugin_version": VERSION}
    assert wanted == PLUGIN_ATTRIBUTES and NAMESPACE == DOMAIN
    assert CONTRACT["limits"] == {
        "levels": MAX_LEVELS,
        "map_elements_per_image": MAX_ELEMENTS,
        "address_multiple": VECTOR_BYTES,
        "blocks": MAX_BLOCKS,
    }
    assert {plugin["kernel"] for plugin in CONTRACT["plugin"]} == KERNELS.keys()


def test_every_operator_has_a_plugin_in_this_order(form: Form) -> None:
    assert list(form.announced()) == list(EXPANDED) == [kind.name for kind in KINDS]


def test_creators_of_the_library_carry_namespace_and_version(cpp: CppForm) -> None:
    for index in range(len(cpp.names)):
        assert cpp.library.creator_namespace(index).decode() == NAMESPACE
        assert cpp.library.creator_version(index).decode() == VERSION


@pytest.mark.parametrize("name", EXPANDED)
def test_attributes(form: Form, name: str) -> None:
    kinds = {
        key: "integers" if kind == "integer" else kind for key, kind in EXPANDED[name]["attributes"].items()
    }
    assert form.announced()[name] == kinds


@pytest.mark.parametrize("name", EXPANDED)
def test_names_and_kernels_of_the_python_operators(name: str) -> None:
    operator = PythonForm().make(name, values_for(name)).operator
    assert operator.name == name and operator.source == EXPANDED[name]["kernel"]
    assert list(operator.inputs) == [entry["name"] for entry in EXPANDED[name]["input"]]
    assert list(operator.outputs) == [entry["name"] for entry in EXPANDED[name]["output"]]


@pytest.mark.parametrize("name", EXPANDED)
def test_types_and_formats(form: Form, name: str) -> None:
    """Every position is asked for every type and format, after every choice that the contract allows."""
    made, inputs = form.make(name, values_for(name)), EXPANDED[name]["input"]
    leading = next((entry for entry in reversed(inputs) if "formats" in entry), inputs[0])
    everything = list(itertools.product(TYPES, FORMATS))
    for first in allowed(leading):
        chosen = {entry["name"]: first if entry is leading else None for entry in inputs}
        tensors: list[Tensor] = []
        for position, entry in enumerate([*inputs, *EXPANDED[name]["output"]]):
            right = set(expected_formats(entry, chosen))
            for pair in everything:
                answer = made.supports(position, [*tensors, Tensor(*pair, ())], len(inputs))
                assert answer == (pair in right), (entry["name"], pair)
            tensors.append(Tensor(*(first if entry is leading else sorted(right)[0]), ()))
        types = [tensor.dtype for tensor in tensors]
        assert made.output_types(types[: len(inputs)]) == types[len(inputs) :]


@pytest.mark.parametrize("channels", [16, 256, 12, -1])
@pytest.mark.parametrize("dtype", ["FLOAT", "HALF", "BF16"])
def test_16_bit_maps_that_the_fast_kernel_takes_come_channels_last(
    form: Form, dtype: str, channels: int
) -> None:
    made = form.make("MultilevelRoiAlign1", values_for("MultilevelRoiAlign1"))
    rois = Tensor("FLOAT", "LINEAR", (-1, -1, 4))
    last = "HWC" if dtype == "FLOAT" else "HWC8"
    answers = {
        layout: made.supports(1, [rois, Tensor(dtype, layout, (-1, channels, -1, -1))], 2)
        for layout in ("LINEAR", last)
    }
    assert answers == {"LINEAR": dtype == "FLOAT" or channels in (12, -1), last: True}


def test_a_window_too_large_for_the_fast_kernel_leaves_the_choice(form: Form) -> None:
    for size, linear in [(40, False), (41, True)]:
        made = form.make("MultilevelRoiAlign1", {**values_for("MultilevelRoiAlign1"), "output_size": size})
        tensors = [Tensor("FLOAT", "LINEAR", (-1, -1, 4)), Tensor("HALF", "LINEAR", (-1, 256, -1, -1))]
        assert made.supports(1, tensors, 2) == linear


def allowed(entry: dict[str, Any]) -> list[tuple[str, str]]:
    return [(dtype, layout) for dtype, layouts in entry["formats"].items() for layout in layouts]


def expected_formats(entry: dict[str, Any], chosen: dict[str, Any]) -> list[tuple[str, str]]:
    if "same_as" in entry:
        return [chosen[entry["same_as"]]]
    if "type_of" in entry:
        return [(chosen[entry["type_of"]][0], entry["format"])]
    if "type" in entry:
        return [(entry["type"], entry["format"])]
    return allowed(entry)


def evaluated(sizes: dict[str, int | None], shape: list[str]) -> list[int | None]:
    found: list[int | None] = []
    for expression in shape:
        factors = [sizes[factor] for factor in expression.split(" * ")]
        known = [factor for factor in factors if factor is not None]
        product = 1
        for factor in known:
            product *= factor
        found.append(product if len(known) == len(factors) else None)
    return found


@pytest.mark.parametrize("unknown", ["", "BG", "N", "BNhwG"])
@pytest.mark.parametrize("name", EXPANDED)
def test_shapes_known_and_unknown(form: Form, name: str, unknown: str) -> None:
    sizes = {key: None if key in unknown else size for key, size in SIZES.items()}
    inputs = [evaluated(sizes, entry["shape"]) for entry in EXPANDED[name]["input"]]
    outputs = [evaluated(sizes, entry["shape"]) for entry in EXPANDED[name]["output"]]
    assert form.make(name, values_for(name)).output_shapes(inputs) == outputs


@pytest.mark.parametrize("count", [1, SHARED_KEYS, SHARED_KEYS + 1, 20_000])
@pytest.mark.parametrize("name", EXPANDED)
def test_workspace(form: Form, name: str, count: int) -> None:
    sizes: dict[str, int | None] = {**SIZES, "N": count}
    shapes = [tuple(s or 0 for s in evaluated(sizes, entry["shape"])) for entry in EXPANDED[name]["input"]]
    keys = 1 << (count - 1).bit_length() if count > SHARED_KEYS else 0
    wanted = KEY_BYTES * SIZES["G"] * SIZES["K"] * keys if "workspace" in EXPANDED[name] else 0
    assert form.make(name, values_for(name)).workspace(shapes) == wanted


@pytest.mark.parametrize("name", EXPANDED)
def test_the_library_plans_its_workspace_for_the_largest_shapes(cpp: CppForm, name: str) -> None:
    sizes: dict[str, int | None] = {**SIZES, "N": 5000}
    shapes = [tuple(s or 0 for s in evaluated(sizes, entry["shape"])) for entry in EXPANDED[name]["input"]]
    made = cpp.make(name, values_for(name))
    assert made.workspace(shapes, profile=True) == made.workspace(shapes)


@pytest.mark.parametrize("name", EXPANDED)
def test_what_an_engine_stores_makes_the_same_plugin(form: Form, name: str) -> None:
    values = values_for(name)
    stored = form.make(name, values).values()
    again = form.make(name, stored if isinstance(form, CppForm) else values)
    listed = {key: (value,) if isinstance(value, int) else value for key, value in values.items()}
    for found in (stored, again.values()):
        assert {k: (v,) if isinstance(v, int) else v for k, v in found.items()} == listed


def test_timings_of_other_attributes_are_told_apart(cpp: CppForm) -> None:
    made = [cpp.make("SoftNms", {**values_for("SoftNms"), "steps": steps}) for steps in (9, 10, 9)]
    ids = [cpp.library.timing_id_of(each.plugin) for each in made]
    assert ids[0] == ids[2] != ids[1] and all(ids)


@pytest.mark.parametrize("name", EXPANDED)
def test_the_onnx_schema(name: str) -> None:
    register_schemas()
    schema = onnx.defs.get_schema(name, 1, DOMAIN)
    contract = EXPANDED[name]
    assert [entry.name for entry in schema.inputs] == [entry["name"] for entry in contract["input"]]
    assert [entry.name for entry in schema.outputs] == [entry["name"] for entry in contract["output"]]
    kinds = {"integers": "INTS", "integer": "INT", "number": "FLOAT", "text": "STRING"}
    wanted = {key: kinds[kind] for key, kind in contract["attributes"].items()}
    wanted |= dict.fromkeys(PLUGIN_ATTRIBUTES, "STRING")
    assert {key: str(each.type).rpartition(".")[2] for key, each in schema.attributes.items()} == wanted
    named = {entry["name"]: entry for entry in contract["input"]}
    for entry in schema.inputs:
        source = named[named[entry.name].get("same_as", entry.name)]
        assert {ONNX_TYPES[kind] for kind in entry.types} <= source["formats"].keys()
    for entry, described in zip(schema.outputs, contract["output"], strict=True):
        allowed_types = (
            {described["type"]} if "type" in described else named[described["type_of"]]["formats"].keys()
        )
        assert {ONNX_TYPES[kind] for kind in entry.types} <= allowed_types


def test_no_operator_of_the_graphs_lacks_a_plugin() -> None:
    register_schemas()
    ours = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == DOMAIN}
    assert ours - set(WITHOUT_PLUGIN) == EXPANDED.keys()
