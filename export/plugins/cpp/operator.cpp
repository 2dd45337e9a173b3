#include "operator.h"

#include <cstdint>

namespace hindsight_trt {

const std::vector<Species>& all_species() {
    static const std::vector<Species> all = [] {
        std::vector<Species> made;
        add_roi_align(made);
        add_nms(made);
        return made;
    }();
    return all;
}

long long volume(const nvinfer1::Dims& dims) {
    long long product = 1;
    for (int i = 0; i < dims.nbDims; ++i) product *= dims.d[i];
    return product;
}

std::string text(const nvinfer1::Dims& dims) {
    std::string found = "[";
    for (int i = 0; i < dims.nbDims; ++i) found += (i ? ", " : "") + std::to_string(dims.d[i]);
    return found + "]";
}

void check_rank(const Operator& op, int input, const nvinfer1::DimsExprs& shape, int rank, const char* meaning) {
    if (shape.nbDims == rank) return;
    throw Refusal(
        op.name + ": expected " + op.inputs.at(static_cast<std::size_t>(input)) + " " + meaning + ", got " +
        std::to_string(shape.nbDims) + " dimensions"
    );
}

void check_size(
    const Operator& op, const char* what, const nvinfer1::IDimensionExpr* size, long long expected
) {
    if (!size->isConstant() || size->getConstantValue() == expected) return;
    throw Refusal(
        op.name + ": expected " + what + " to be " + std::to_string(expected) + ", got " +
        std::to_string(size->getConstantValue())
    );
}

void check_same(
    const Operator& op, const std::string& what, const nvinfer1::IDimensionExpr* first,
    const nvinfer1::IDimensionExpr* second
) {
    if (!first->isConstant() || !second->isConstant()) return;
    const long long a = first->getConstantValue(), b = second->getConstantValue();
    if (a != b) throw Refusal(op.name + ": " + what + " differ: " + std::to_string(a) + " and " + std::to_string(b));
}

void check_address(const Operator& op, const std::string& what, const void* address) {
    if (reinterpret_cast<std::uintptr_t>(address) % 16 == 0) return;
    throw Refusal(op.name + ": " + what + " lies at an address that is no multiple of 16");
}

void check_count(const Operator& op, std::size_t found) {
    if (found == op.inputs.size()) return;
    throw Refusal(
        op.name + ": expected " + std::to_string(op.inputs.size()) + " inputs, got " + std::to_string(found)
    );
}

const char* type_name(nvinfer1::DataType type) {
    switch (type) {
    case nvinfer1::DataType::kFLOAT: return "FLOAT";
    case nvinfer1::DataType::kHALF: return "HALF";
    case nvinfer1::DataType::kBF16: return "BF16";
    case nvinfer1::DataType::kBOOL: return "BOOL";
    default: return "another";
    }
}

}  // namespace hindsight_trt
