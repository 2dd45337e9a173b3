// Nothing may leave these methods as an exception: what an operator refuses is logged and becomes an error code.
//
// Life of a plugin at run time: the creator makes it from the engine's fields; attachToContext loads its
// kernels, outside of any CUDA graph capture; onShapeChange works out the launch; enqueue fills in the addresses
// and launches on TensorRT's stream, without waiting for anything.
#include "plugin.h"

#include <exception>
#include <utility>

#include "launch.h"

namespace hindsight_trt {
namespace {

using namespace nvinfer1;

// 0 where `act` comes to its end, else -1 and the reason in the log.
template <class Act>
int32_t guarded(const Act& act) noexcept {
    try {
        act();
        return 0;
    } catch (const std::exception& error) {
        log_error(error.what());
    }
    return -1;
}

void check_launched(const std::string& name, const char* wrong) {
    if (wrong != nullptr) throw std::runtime_error(name + ": " + wrong);
}

// The largest shape of the profile; at run time, where there is none, the shape itself.
Dims largest(const DynamicPluginTensorDesc& tensor) {
    bool known = tensor.max.nbDims == tensor.desc.dims.nbDims;
    for (int i = 0; known && i < tensor.max.nbDims; ++i) known = tensor.max.d[i] >= 0;
    return known ? tensor.max : tensor.desc.dims;
}

}  // namespace

Plugin::Plugin(Shared op, Attributes attributes)
    : op_(std::move(op)), attributes_(std::move(attributes)),
      // what TensorRT does not know of a timing: all but types, formats and sizes
      timing_id_(attributes_.line()), fields_(attributes_.fields()),
      collection_{static_cast<int32_t>(fields_.size()), fields_.data()} {}

IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
    switch (type) {
    case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

IPluginV3* Plugin::clone() noexcept {
    Plugin* copy = nullptr;
    guarded([&] {
        copy = new Plugin(op_, attributes_);
        copy->work_ = work_;
    });
    return copy;
}

int32_t Plugin::getOutputDataTypes(
    DataType* outputs, int32_t output_count, const DataType* inputs, int32_t input_count
) const noexcept {
    return guarded([&] {
        const std::vector<DataType> found = op_->output_types(std::vector<DataType>(inputs, inputs + input_count));
        if (static_cast<int32_t>(found.size()) != output_count) throw Refusal(op_->name + ": wrong output count");
        for (std::size_t i = 0; i < found.size(); ++i) outputs[i] = found[i];
    });
}

int32_t Plugin::getOutputShapes(
    const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t, DimsExprs* outputs,
    int32_t output_count, IExprBuilder& builder
) noexcept {
    return guarded([&] {
        check_count(*op_, static_cast<std::size_t>(input_count));
        const std::vector<DimsExprs> found = op_->output_shapes(inputs, builder);
        if (static_cast<int32_t>(found.size()) != output_count) throw Refusal(op_->name + ": wrong output count");
        for (std::size_t i = 0; i < found.size(); ++i) outputs[i] = found[i];
    });
}

bool Plugin::supportsFormatCombination(
    int32_t position, const DynamicPluginTensorDesc* tensors, int32_t, int32_t
) noexcept {
    bool fine = false;
    guarded([&] { fine = op_->supports(position, tensors); });
    return fine;
}

int32_t Plugin::configurePlugin(
    const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*, int32_t
) noexcept {
    return 0;  // nothing is chosen before the sizes are known
}

std::size_t Plugin::getWorkspaceSize(
    const DynamicPluginTensorDesc* inputs, int32_t input_count, const DynamicPluginTensorDesc*, int32_t
) const noexcept {
    std::size_t bytes = 0;
    guarded([&] {
        std::vector<Dims> shapes;
        for (int32_t i = 0; i < input_count; ++i) shapes.push_back(largest(inputs[i]));
        bytes = op_->workspace_bytes(shapes);
    });
    return bytes;
}

int32_t Plugin::onShapeChange(
    const PluginTensorDesc* inputs, int32_t, const PluginTensorDesc* outputs, int32_t
) noexcept {
    return guarded([&] { work_ = op_->plan(inputs, outputs); });
}

int32_t Plugin::enqueue(
    const PluginTensorDesc*, const PluginTensorDesc*, const void* const* inputs, void* const* outputs,
    void* workspace, cudaStream_t stream
) noexcept {
    if (work_.kernel == nullptr) return 0;  // nothing to compute
    return guarded([&] {
        op_->bind(work_, inputs, outputs, workspace);
        std::visit(
            [&](const auto& params) {
                check_launched(op_->name, launch(work_.kernel, &params, work_.launch, stream));
            },
            work_.params
        );
    });
}

IPluginV3* Plugin::attachToContext(IPluginResourceContext*) noexcept {
    const int32_t wrong = guarded([&] { check_launched(op_->name, load_kernels(op_->source.c_str())); });
    return wrong ? nullptr : clone();
}

const PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept { return &collection_; }

Creator::Creator(const Species& species)
    : species_(species), fields_(announced_fields(species.attributes)),
      collection_{static_cast<int32_t>(fields_.size()), fields_.data()} {}

IPluginV3* Creator::createPlugin(const char*, const PluginFieldCollection* fields, TensorRTPhase) noexcept {
    Plugin* made = nullptr;
    guarded([&] {
        const Attributes attributes(species_.name, species_.attributes, *fields);
        made = new Plugin(species_.make(species_.name, attributes), attributes);
    });
    return made;
}

}  // namespace hindsight_trt
