// What a plugin must say of its operator; plugin.cpp puts it behind TensorRT's interfaces. The Python plugins say
// the same (export/plugins/python/operator.py), and contract.toml holds for both.
#ifndef HINDSIGHT_OPERATOR_H
#define HINDSIGHT_OPERATOR_H

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "NvInferRuntime.h"
#include "attributes.h"
#include "geometry.h"
#include "params.h"

namespace hindsight_trt {

// One launch for given shapes; addresses are filled in by `bind`.
struct Work {
    const void* kernel = nullptr;  // null: nothing to compute
    HindsightLaunch launch = {};
    std::variant<RoiAlignParams, NmsParams, SoftNmsParams> params;
};

// A wrong attribute, type or shape. The message names what was expected and what came.
struct Refusal : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

class Operator {
public:
    virtual ~Operator() = default;

    std::string name;
    std::string source;  // of its kernels, in model/kernels
    std::vector<std::string> inputs, outputs;

    // Throws Refusal for inputs that the operator cannot take.
    virtual std::vector<nvinfer1::DataType> output_types(const std::vector<nvinfer1::DataType>& types) const = 0;

    // One shape for each output. Throws Refusal as far as what is known contradicts the operator.
    virtual std::vector<nvinfer1::DimsExprs> output_shapes(
        const nvinfer1::DimsExprs* shapes, nvinfer1::IExprBuilder& sizes
    ) const = 0;

    // Whether the tensor at `position` (inputs, then outputs) is fine, given those before it.
    virtual bool supports(int position, const nvinfer1::DynamicPluginTensorDesc* tensors) const = 0;

    // For inputs of these shapes or smaller ones.
    virtual std::size_t workspace_bytes(const std::vector<nvinfer1::Dims>& shapes) const {
        (void)shapes;
        return 0;
    }

    // Throws Refusal.
    virtual Work plan(
        const nvinfer1::PluginTensorDesc* input, const nvinfer1::PluginTensorDesc* output
    ) const = 0;

    // Writes addresses into `work`. Throws Refusal for one that the kernel cannot use.
    virtual void bind(Work& work, const void* const* input, void* const* output, void* workspace) const = 0;
};

using Shared = std::shared_ptr<const Operator>;

// An operator before it has its attributes.
struct Species {
    std::string name;
    std::vector<Announced> attributes;
    Shared (*make)(const std::string& name, const Attributes& attributes);
};

// Every operator that there is a plugin for.
const std::vector<Species>& all_species();

// The parts of it: roi_align_operator.cpp, nms_operators.cpp.
void add_roi_align(std::vector<Species>& all);
void add_nms(std::vector<Species>& all);

// Shapes.
long long volume(const nvinfer1::Dims& dims);
std::string text(const nvinfer1::Dims& dims);
void check_rank(const Operator& op, int input, const nvinfer1::DimsExprs& shape, int rank, const char* meaning);
void check_size(
    const Operator& op, const char* what, const nvinfer1::IDimensionExpr* size, long long expected
);
void check_same(
    const Operator& op, const std::string& what, const nvinfer1::IDimensionExpr* first,
    const nvinfer1::IDimensionExpr* second
);
// The kernels load and store 16 bytes at once.
void check_address(const Operator& op, const std::string& what, const void* address);
void check_count(const Operator& op, std::size_t found);
const char* type_name(nvinfer1::DataType type);

}  // namespace hindsight_trt

#endif
