// Attributes of a node: from and to TensorRT's plugin fields, checked by name and kind.
#ifndef HINDSIGHT_ATTRIBUTES_H
#define HINDSIGHT_ATTRIBUTES_H

#include <cstdint>
#include <string>
#include <vector>

#include "NvInferRuntime.h"

namespace hindsight_trt {

enum class Kind { kInteger, kIntegers, kNumber, kText };

// An attribute that an operator has. Announced with TensorRT's type of it: the parser hands over nothing else.
struct Announced {
    const char* name;
    Kind kind;
};

// The value of one.
struct Value {
    std::string name;
    Kind kind;
    std::vector<std::int32_t> integers;
    float number = 0.0f;
    std::string text;
};

class Attributes {
public:
    // Throws std::invalid_argument for an attribute that is missing or of another kind.
    Attributes(
        const std::string& plugin, const std::vector<Announced>& announced,
        const nvinfer1::PluginFieldCollection& fields
    );

    std::int32_t integer(const char* name) const { return find(name).integers.at(0); }
    const std::vector<std::int32_t>& integers(const char* name) const { return find(name).integers; }
    float number(const char* name) const { return find(name).number; }
    const std::string& text(const char* name) const { return find(name).text; }

    // The same as fields, which point into this object.
    std::vector<nvinfer1::PluginField> fields() const;

    // All of them as one line.
    std::string line() const;

private:
    const Value& find(const char* name) const;
    std::vector<Value> values_;
};

// What a creator announces; points to the names.
std::vector<nvinfer1::PluginField> announced_fields(const std::vector<Announced>& announced);

}  // namespace hindsight_trt

#endif
