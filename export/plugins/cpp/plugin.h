// TensorRT's plugin interfaces around an Operator, and the creator of such plugins.
#ifndef HINDSIGHT_PLUGIN_H
#define HINDSIGHT_PLUGIN_H

#include <string>
#include <vector>

#include "NvInferRuntime.h"
#include "operator.h"

namespace hindsight_trt {

const char* const kNamespace = "hindsight";
const char* const kVersion = "1";

// Where TensorRT's log is; without one, errors go to stderr.
void set_logger_finder(nvinfer1::ILoggerFinder* finder);
void log_error(const std::string& message) noexcept;

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
public:
    Plugin(Shared op, Attributes attributes);

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    const char* getPluginName() const noexcept override { return op_->name.c_str(); }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

    int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(op_->outputs.size()); }
    int32_t getOutputDataTypes(
        nvinfer1::DataType* outputs, int32_t output_count, const nvinfer1::DataType* inputs, int32_t input_count
    ) const noexcept override;
    int32_t getOutputShapes(
        const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs* shape_inputs,
        int32_t shape_input_count, nvinfer1::DimsExprs* outputs, int32_t output_count,
        nvinfer1::IExprBuilder& builder
    ) noexcept override;
    bool supportsFormatCombination(
        int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t input_count,
        int32_t output_count
    ) noexcept override;
    int32_t configurePlugin(
        const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
        const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t output_count
    ) noexcept override;
    std::size_t getWorkspaceSize(
        const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
        const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t output_count
    ) const noexcept override;
    const char* getTimingCacheID() noexcept override { return timing_id_.c_str(); }

    int32_t onShapeChange(
        const nvinfer1::PluginTensorDesc* inputs, int32_t input_count,
        const nvinfer1::PluginTensorDesc* outputs, int32_t output_count
    ) noexcept override;
    int32_t enqueue(
        const nvinfer1::PluginTensorDesc* input_descriptions,
        const nvinfer1::PluginTensorDesc* output_descriptions, const void* const* inputs, void* const* outputs,
        void* workspace, cudaStream_t stream
    ) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

private:
    Shared op_;
    Attributes attributes_;
    std::string timing_id_;
    Work work_;
    std::vector<nvinfer1::PluginField> fields_;  // points into attributes_
    nvinfer1::PluginFieldCollection collection_;
};

class Creator final : public nvinfer1::IPluginCreatorV3One {
public:
    explicit Creator(const Species& species);

    nvinfer1::IPluginV3* createPlugin(
        const char* name, const nvinfer1::PluginFieldCollection* fields, nvinfer1::TensorRTPhase phase
    ) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
    const char* getPluginName() const noexcept override { return species_.name.c_str(); }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

private:
    const Species& species_;  // of all_species(), which lives as long as the library
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_;
};

}  // namespace hindsight_trt

#endif
