#include "attributes.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>

namespace hindsight_trt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

PluginFieldType type_of(Kind kind) {
    switch (kind) {
    case Kind::kNumber: return PluginFieldType::kFLOAT32;
    case Kind::kText: return PluginFieldType::kCHAR;
    default: return PluginFieldType::kINT32;
    }
}

const char* name_of(Kind kind) {
    switch (kind) {
    case Kind::kNumber: return "a number";
    case Kind::kText: return "a text";
    case Kind::kInteger: return "an integer";
    default: return "a list of integers";
    }
}

std::vector<std::int32_t> integers_of(const PluginField& field) {
    std::vector<std::int32_t> found;
    for (std::int32_t i = 0; i < field.length; ++i) {
        if (field.type == PluginFieldType::kINT64) {
            found.push_back(static_cast<std::int32_t>(static_cast<const std::int64_t*>(field.data)[i]));
        } else {
            found.push_back(static_cast<const std::int32_t*>(field.data)[i]);
        }
    }
    return found;
}

// Whether the field holds a value of that kind, which is then in `value`.
bool read(const PluginField& field, Value& value) {
    const bool integers = field.type == PluginFieldType::kINT32 || field.type == PluginFieldType::kINT64;
    switch (value.kind) {
    case Kind::kInteger:
    case Kind::kIntegers:
        if (!integers || (value.kind == Kind::kInteger && field.length != 1)) return false;
        value.integers = integers_of(field);
        return true;
    case Kind::kNumber:
        if (field.length != 1) return false;
        if (field.type == PluginFieldType::kFLOAT32) value.number = *static_cast<const float*>(field.data);
        else if (field.type == PluginFieldType::kFLOAT64)
            value.number = static_cast<float>(*static_cast<const double*>(field.data));
        else return false;
        return true;
    case Kind::kText:
        if (field.type != PluginFieldType::kCHAR) return false;
        value.text.assign(static_cast<const char*>(field.data), static_cast<std::size_t>(field.length));
        value.text.erase(std::find(value.text.begin(), value.text.end(), '\0'), value.text.end());
        return true;
    }
    return false;
}

}  // namespace

Attributes::Attributes(
    const std::string& plugin, const std::vector<Announced>& announced,
    const nvinfer1::PluginFieldCollection& fields
) {
    for (const Announced& wanted : announced) {
        const PluginField* end = fields.fields + fields.nbFields;
        const PluginField* field = std::find_if(fields.fields, end, [&](const PluginField& candidate) {
            return candidate.name != nullptr && std::string(candidate.name) == wanted.name;
        });
        const std::string name = std::string("'") + wanted.name + "'";
        if (field == end) throw std::invalid_argument(plugin + ": the node lacks the attribute " + name);
        Value value{wanted.name, wanted.kind, {}, 0.0f, {}};
        if (!read(*field, value)) {
            throw std::invalid_argument(plugin + ": expected attribute " + name + " to be " + name_of(wanted.kind));
        }
        values_.push_back(value);
    }
}

std::vector<PluginField> Attributes::fields() const {
    std::vector<PluginField> found;
    for (const Value& value : values_) {
        const void* data = value.integers.data();
        std::size_t length = value.integers.size();
        if (value.kind == Kind::kNumber) data = &value.number, length = 1;
        if (value.kind == Kind::kText) data = value.text.data(), length = value.text.size();
        found.emplace_back(value.name.c_str(), data, type_of(value.kind), static_cast<std::int32_t>(length));
    }
    return found;
}

std::string Attributes::line() const {
    std::ostringstream line;
    for (const Value& value : values_) {
        line << value.name << '=' << value.text << value.number;
        for (const std::int32_t integer : value.integers) line << ',' << integer;
        line << ';';
    }
    return line.str();
}

const Value& Attributes::find(const char* name) const {
    for (const Value& value : values_) {
        if (value.name == name) return value;
    }
    throw std::logic_error(std::string("no attribute ") + name);
}

std::vector<PluginField> announced_fields(const std::vector<Announced>& announced) {
    std::vector<PluginField> fields;
    for (const Announced& each : announced) fields.emplace_back(each.name, nullptr, type_of(each.kind), 1);
    return fields;
}

}  // namespace hindsight_trt
