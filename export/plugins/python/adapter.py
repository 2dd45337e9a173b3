"""TensorRT's plugin interfaces (IPluginV3 and its creator) around an `Operator`.

The classes are made for the module that is handed in, since `tensorrt` and `tensorrt_rtx` have base classes
of their own. TensorRT prints what a method raises to stderr and fails the build or the call.

Life of a plugin at run time: the creator makes it from the engine's fields; `attach_to_context` compiles and
loads its kernels, outside of any CUDA graph capture; `on_shape_change` works out the launch; `enqueue` fills
in the addresses and launches on TensorRT's stream, without waiting for anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from export.plugins.python import attributes
from export.plugins.python.operator import NAMESPACE, VERSION, Kind, Operator, Tensor, Work
from model.kernels.compile import KERNELS
from model.kernels.driver import Queue, current_device, launch, load


class _Expressions:
    """`Sizes` on TensorRT's dimension expressions."""

    def __init__(self, trt: Any, builder: Any) -> None:
        self.product_of, self.builder = trt.DimensionOperation.PROD, builder

    def constant(self, value: int) -> Any:
        return self.builder.constant(value)

    def product(self, first: Any, second: Any) -> Any:
        return self.builder.operation(self.product_of, first, second)

    def known(self, size: Any) -> int | None:
        return int(size.get_constant_value()) if size.is_constant() else None


@cache
def plugin_class(trt: Any) -> type[Any]:
    """The plugin of every operator, for the module `trt`."""

    class Plugin(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):  # type: ignore[misc]
        def __init__(self, operator: Operator) -> None:
            for base in Plugin.__bases__:
                base.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace = operator.name, VERSION, NAMESPACE
            self.num_outputs = len(operator.outputs)
            # what TensorRT does not know of a timing: all but types, formats and sizes
            self.timing_cache_id = repr(sorted(operator.attributes().items()))
            self.operator = operator
            self.work: Work | None = None
            self._fields: Any = None

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Plugin:
            copy = Plugin(self.operator)
            copy.work = self.work
            return copy

        def get_output_data_types(self, types: Sequence[Any]) -> list[Any]:
            found = self.operator.output_types([each.name for each in types])
            return [getattr(trt.DataType, name) for name in found]

        def get_output_shapes(
            self, shapes: Sequence[Any], shape_inputs: Sequence[Any], builder: Any
        ) -> list[Any]:
            found = self.operator.output_shapes([list(each) for each in shapes], _Expressions(trt, builder))
            return [trt.DimsExprs(shape) for shape in found]

        def supports_format_combination(self, position: int, tensors: Sequence[Any], inputs: int) -> bool:
            seen = [_tensor(each.desc) for each in tensors[: position + 1]]
            return self.operator.supports(position, seen)

        def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            pass  # nothing is chosen before the sizes are known

        def get_workspace_size(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
            return self.operator.workspace_bytes([_largest(each) for each in inputs])

        def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            self.work = self.operator.plan(
                [_tensor(each) for each in inputs], [_tensor(each) for each in outputs]
            )

        def set_tactic(self, tactic: int) -> None:
            pass  # sizes alone decide: there are none to choose from

        def attach_to_context(self, resources: Any) -> Plugin:
            device, source = current_device(), self.operator.source
            for kernel in KERNELS[source]:
                load(source, kernel, device)
            return self.clone()

        def enqueue(
            self,
            input_descriptions: Sequence[Any],
            output_descriptions: Sequence[Any],
            inputs: Sequence[int],
            outputs: Sequence[int],
            workspace: int,
            stream: int,
        ) -> None:
            if (work := self.work) is None:
                return  # nothing to compute
            params = type(work.params).from_buffer_copy(work.params)  # clones share the work
            self.operator.bind(params, inputs, outputs, workspace)
            queue = Queue(current_device(), stream)
            launch(self.operator.source, work.kernel, params, work.launch, queue)

        def get_fields_to_serialize(self) -> Any:
            # TensorRT keeps addresses: what they point to lives with the plugin
            self._fields = attributes.serialised(trt, self.operator.attributes())
            return self._fields[0]

    return Plugin


@cache
def creator_class(trt: Any) -> type[Any]:
    """The creator of every operator's plugin, for the module `trt`."""
    plugin = plugin_class(trt)

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self, kind: Kind) -> None:
            super().__init__()
            self.kind = kind
            self.name, self.plugin_version, self.plugin_namespace = kind.name, VERSION, NAMESPACE
            self._announced, self._kept = attributes.announced(trt, kind.attributes)
            self.field_names = self._announced

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            values = attributes.read(self.kind.name, self.kind.attributes, fields)
            return plugin(self.kind.make(values))

    return Creator


def _tensor(description: Any) -> Tensor:
    return Tensor(description.type.name, description.format.name, _shape(description.dims))


def _shape(dims: Any) -> tuple[int, ...]:
    try:
        return tuple(dims)
    except ValueError:  # TensorRT marks sizes that are not there by a count of -1
        return ()


def _largest(description: Any) -> tuple[int, ...]:
    """The largest shape of the profile; at run time, where there is none, the shape itself."""
    largest, present = _shape(description.max), _shape(description.desc.dims)
    return largest if len(largest) == len(present) and min(largest, default=0) >= 0 else present
