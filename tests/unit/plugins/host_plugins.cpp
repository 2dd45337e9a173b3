// The C++ plugins without TensorRT and without a GPU: our declarations of its interface and of CUDA's runtime,
// kernels on the host grid. Plain C functions for ctypes, which drive a plugin as TensorRT would: through the creators and the
// capability interfaces.
#include "launch.cu"

#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "NvInferRuntime.h"

using namespace nvinfer1;

extern "C" IPluginCreatorInterface* const* getCreators(int32_t& count);
extern "C" void setLoggerFinder(ILoggerFinder* finder);

// --- CUDA's runtime, on the host grid

#define KERNELS(X)                                \
    X(roi_align_vector_f32_f32, RoiAlignParams)   \
    X(roi_align_vector_f16_f16, RoiAlignParams)   \
    X(roi_align_vector_bf16_bf16, RoiAlignParams) \
    X(roi_align_strided_f32_f32, RoiAlignParams)  \
    X(roi_align_strided_f16_f16, RoiAlignParams)  \
    X(roi_align_strided_bf16_bf16, RoiAlignParams) \
    X(batched_nms, NmsParams)                     \
    X(iou_guided_nms, NmsParams)                  \
    X(soft_nms, SoftNmsParams)

// For the Python plugins, which come without launch.cu.
#define RUN(name, Params)                                                                                      \
    extern "C" void run_##name(                                                                                \
        const void* params, unsigned blocks, unsigned threads, unsigned shared, unsigned order                 \
    ) {                                                                                                        \
        const auto kernel = [](const void* p) { name(*static_cast<const Params*>(p)); };                       \
        host_grid::run(kernel, params, blocks, threads, shared, order);                                        \
    }
KERNELS(RUN)

namespace {

std::set<const void*> loaded;
std::string launched, logged;
const cudaStream_t stream = reinterpret_cast<cudaStream_t>(0x5);

}  // namespace

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void* function) {
    loaded.insert(function);
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(
    const void* function, dim3 grid, dim3 block, void** arguments, std::size_t shared, cudaStream_t on
) {
    // a capture could not load it now
    if (loaded.count(function) == 0) return cudaErrorInvalidDeviceFunction;
    if (on != stream || grid.y * grid.z * block.y * block.z != 1) return cudaErrorInvalidResourceHandle;
#define LAUNCH(name, Params)                                                                    \
    if (function == reinterpret_cast<const void*>(&name)) {                                     \
        launched = #name;                                                                       \
        run_##name(arguments[0], grid.x, block.x, static_cast<unsigned>(shared), 0);            \
        return cudaSuccess;                                                                     \
    }
    KERNELS(LAUNCH)
    return cudaErrorInvalidDeviceFunction;
}

const char* cudaGetErrorString(cudaError_t status) {
    return status == cudaErrorInvalidDeviceFunction ? "the kernel was not loaded before" : "another stream or shape";
}

// --- TensorRT's side

namespace {

struct Logger : ILogger, ILoggerFinder {
    void log(Severity, const char* message) noexcept override { logged = message; }
    ILogger* findLogger() override { return this; }
};

struct Expression : IDimensionExpr {
    explicit Expression(int64_t its_value) : value(its_value) {}
    bool isConstant() const noexcept override { return value >= 0; }
    int64_t getConstantValue() const noexcept override { return value; }
    int64_t value;  // negative: not known
};

struct Builder : IExprBuilder {
    std::deque<Expression> made;
    const IDimensionExpr* constant(int64_t value) noexcept override { return &made.emplace_back(value); }
    const IDimensionExpr* operation(
        DimensionOperation op, const IDimensionExpr& first, const IDimensionExpr& second
    ) noexcept override {
        const int64_t a = first.getConstantValue(), b = second.getConstantValue();
        if (!first.isConstant() || !second.isConstant()) return constant(-1);
        return constant(op == DimensionOperation::kPROD ? a * b : a + b);
    }
};

IPluginCreatorV3One& creator(int index) {
    static Logger logger;
    setLoggerFinder(&logger);
    int32_t count = 0;
    return *static_cast<IPluginCreatorV3One*>(getCreators(count)[index]);
}

IPluginV3OneBuild& build_of(void* plugin) {
    auto* found = static_cast<IPluginV3*>(plugin)->getCapabilityInterface(PluginCapabilityType::kBUILD);
    return *static_cast<IPluginV3OneBuild*>(found);
}

IPluginV3OneRuntime& runtime_of(void* plugin) {
    auto* found = static_cast<IPluginV3*>(plugin)->getCapabilityInterface(PluginCapabilityType::kRUNTIME);
    return *static_cast<IPluginV3OneRuntime*>(found);
}

}  // namespace

// A tensor as ctypes hands it over.
struct Described {
    int32_t type, format, rank;
    int64_t sizes[8];
};

static PluginTensorDesc describe(const Described& tensor) {
    PluginTensorDesc found = {};
    found.type = static_cast<DataType>(tensor.type);
    found.format = static_cast<TensorFormat>(tensor.format);
    found.dims.nbDims = tensor.rank;
    for (int i = 0; i < tensor.rank; ++i) found.dims.d[i] = tensor.sizes[i];
    return found;
}

static std::vector<PluginTensorDesc> describe(const Described* tensors, int count) {
    std::vector<PluginTensorDesc> found;
    for (int i = 0; i < count; ++i) found.push_back(describe(tensors[i]));
    return found;
}

extern "C" {

int creator_count() {
    int32_t count = 0;
    getCreators(count);
    return count;
}

const char* creator_name(int index) { return creator(index).getPluginName(); }
const char* creator_namespace(int index) { return creator(index).getPluginNamespace(); }
const char* creator_version(int index) { return creator(index).getPluginVersion(); }
const PluginFieldCollection* creator_fields(int index) { return creator(index).getFieldNames(); }

const char* last_error() { return logged.c_str(); }
const char* last_kernel() { return launched.c_str(); }

void* make(int index, const PluginFieldCollection* fields) {
    logged.clear();
    return creator(index).createPlugin("node", fields, TensorRTPhase::kBUILD);
}

void destroy(void* plugin) { delete static_cast<IPluginV3*>(plugin); }

const PluginFieldCollection* fields_of(void* plugin) { return runtime_of(plugin).getFieldsToSerialize(); }

const char* name_of(void* plugin) {
    auto* core = static_cast<IPluginV3*>(plugin)->getCapabilityInterface(PluginCapabilityType::kCORE);
    return static_cast<IPluginV3OneCore*>(core)->getPluginName();
}

const char* timing_id_of(void* plugin) { return build_of(plugin).getTimingCacheID(); }

int supports(void* plugin, int position, const Described* tensors, int inputs, int outputs) {
    std::vector<DynamicPluginTensorDesc> all(static_cast<std::size_t>(inputs + outputs));
    for (int i = 0; i <= position; ++i) all[static_cast<std::size_t>(i)].desc = describe(tensors[i]);
    return build_of(plugin).supportsFormatCombination(position, all.data(), inputs, outputs);
}

// How many outputs there are, or -1.
int output_types(void* plugin, const int32_t* types, int inputs, int32_t* found) {
    logged.clear();
    IPluginV3OneBuild& build = build_of(plugin);
    std::vector<DataType> given, got(static_cast<std::size_t>(build.getNbOutputs()));
    for (int i = 0; i < inputs; ++i) given.push_back(static_cast<DataType>(types[i]));
    if (build.getOutputDataTypes(got.data(), build.getNbOutputs(), given.data(), inputs) != 0) return -1;
    for (std::size_t i = 0; i < got.size(); ++i) found[i] = static_cast<int32_t>(got[i]);
    return build.getNbOutputs();
}

// The same; sizes of -1 are not known.
int output_shapes(void* plugin, const Described* tensors, int inputs, Described* found) {
    logged.clear();
    IPluginV3OneBuild& build = build_of(plugin);
    Builder builder;
    std::vector<DimsExprs> given(static_cast<std::size_t>(inputs)), got(static_cast<std::size_t>(build.getNbOutputs()));
    for (int i = 0; i < inputs; ++i) {
        DimsExprs& shape = given[static_cast<std::size_t>(i)];
        shape.nbDims = tensors[i].rank;
        for (int j = 0; j < tensors[i].rank; ++j) shape.d[j] = builder.constant(tensors[i].sizes[j]);
    }
    const int status = build.getOutputShapes(given.data(), inputs, nullptr, 0, got.data(), build.getNbOutputs(), builder);
    if (status != 0) return -1;
    for (std::size_t i = 0; i < got.size(); ++i) {
        found[i].rank = got[i].nbDims;
        for (int j = 0; j < got[i].nbDims; ++j) {
            found[i].sizes[j] = got[i].d[j]->isConstant() ? got[i].d[j]->getConstantValue() : -1;
        }
    }
    return build.getNbOutputs();
}

// Of an optimisation profile with these largest shapes, or, without one, of the shapes themselves.
long long workspace(void* plugin, const Described* tensors, int inputs, int profile) {
    std::vector<DynamicPluginTensorDesc> all;
    for (int i = 0; i < inputs; ++i) {
        DynamicPluginTensorDesc tensor = {};
        tensor.desc = describe(tensors[i]);
        if (profile) {
            tensor.max = tensor.desc.dims;
            for (int j = 0; j < tensor.desc.dims.nbDims; ++j) tensor.desc.dims.d[j] = -1;
        }
        all.push_back(tensor);
    }
    return static_cast<long long>(build_of(plugin).getWorkspaceSize(all.data(), inputs, nullptr, 0));
}

// As an execution context does: attach, shapes, work. 0, or -1 with the reason in last_error().
int run(
    void* plugin, const Described* inputs, int input_count, const Described* outputs, int output_count,
    const void* const* from, void* const* to, void* memory
) {
    logged.clear();
    launched.clear();
    loaded.clear();
    const std::unique_ptr<IPluginV3> attached(runtime_of(plugin).attachToContext(nullptr));
    if (!attached) return -1;
    IPluginV3OneRuntime& runtime = runtime_of(attached.get());
    const std::vector<PluginTensorDesc> in = describe(inputs, input_count), out = describe(outputs, output_count);
    if (runtime.setTactic(0) != 0) return -1;
    if (runtime.onShapeChange(in.data(), input_count, out.data(), output_count) != 0) return -1;
    return runtime.enqueue(in.data(), out.data(), from, to, memory, stream);
}

}  // extern "C"
