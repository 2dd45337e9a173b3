// MultilevelRoiAlign1 to 6: one launch of roi_align.cu.
// rois float32 [B, N, 4], L maps [B, C, h, w] -> [B * N, C, s, s] of the maps' type.
#include "launch.h"
#include "operator.h"

namespace hindsight_trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

const int kMaxLevels = 6;  // as many as there are ONNX operators; the kernel takes more
const long long kMaxElements = 2147483647LL;  // of a map, an image: the kernel counts in 32 bits
const float kSidePerStride = 14.0f;  // sqrt(area) of a box from which FPN's rule gives it to a level: 224 / 16

bool is_map_type(DataType type) {
    return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

TensorFormat channels_last(DataType type) {
    return type == DataType::kFLOAT ? TensorFormat::kHWC : TensorFormat::kHWC8;
}

std::string kernel_name(bool vector, DataType type) {
    const std::string types = type == DataType::kFLOAT ? "f32" : type == DataType::kHALF ? "f16" : "bf16";
    return std::string("roi_align_") + (vector ? "vector_" : "strided_") + types + "_" + types;
}

class RoiAlign : public Operator {
public:
    RoiAlign(const std::string& called, const Attributes& attributes)
        : strides_(attributes.integers("strides")), size_(attributes.integer("output_size")),
          sampling_ratio_(attributes.integer("sampling_ratio")), aligned_(attributes.integer("aligned")) {
        name = called;
        source = "roi_align";
        const int levels = std::stoi(called.substr(called.find_last_not_of("0123456789") + 1));
        inputs = {"rois"};
        for (int level = 0; level < levels; ++level) inputs.push_back("feature_" + std::to_string(level));
        outputs = {"pooled"};
        bool fine = static_cast<int>(strides_.size()) == levels;
        for (const std::int32_t stride : strides_) fine = fine && stride >= 1;
        if (!fine) throw Refusal(name + ": expected " + std::to_string(levels) + " positive strides");
        for (std::size_t i = 1; i < strides_.size(); ++i) {
            if (strides_[i] != 2LL * strides_[i - 1]) throw Refusal(name + ": expected strides that double");
        }
        if (size_ < 1) refuse("output_size of 1 or more", size_);
        if (sampling_ratio_ < 0) refuse("sampling_ratio of 0 or more", sampling_ratio_);
        if (aligned_ != 0 && aligned_ != 1) refuse("aligned to be 0 or 1", aligned_);
    }

    std::vector<DataType> output_types(const std::vector<DataType>& types) const override {
        check_count(*this, types.size());
        if (types[0] != DataType::kFLOAT) {
            throw Refusal(name + ": expected rois of type FLOAT, got " + type_name(types[0]));
        }
        for (std::size_t i = 1; i < types.size(); ++i) {
            if (!is_map_type(types[i]) || types[i] != types[1]) {
                throw Refusal(name + ": expected maps of one type, FLOAT, HALF or BF16, got " + type_name(types[i]));
            }
        }
        return {types[1]};
    }

    std::vector<DimsExprs> output_shapes(const DimsExprs* shapes, nvinfer1::IExprBuilder& sizes) const override {
        const DimsExprs &rois = shapes[0], &first = shapes[1];
        check_rank(*this, 0, rois, 3, "[B, N, 4]");
        check_size(*this, "the last size of rois", rois.d[2], 4);
        for (int i = 1; i < static_cast<int>(inputs.size()); ++i) {
            check_rank(*this, i, shapes[i], 4, "[B, C, h, w]");
            const std::string& map = inputs[static_cast<std::size_t>(i)];
            check_same(*this, "images of rois and " + map, rois.d[0], shapes[i].d[0]);
            check_same(*this, "channels of feature_0 and " + map, first.d[1], shapes[i].d[1]);
        }
        DimsExprs pooled = {};
        pooled.nbDims = 4;
        pooled.d[0] = sizes.operation(nvinfer1::DimensionOperation::kPROD, *rois.d[0], *rois.d[1]);
        pooled.d[1] = first.d[1];
        pooled.d[2] = pooled.d[3] = sizes.constant(size_);
        return {pooled};
    }

    bool supports(int position, const DynamicPluginTensorDesc* tensors) const override {
        const PluginTensorDesc &tensor = tensors[position].desc, &first = tensors[1].desc;
        if (position == 0) return tensor.type == DataType::kFLOAT && tensor.format == TensorFormat::kLINEAR;
        if (position == 1) {
            if (!is_map_type(tensor.type)) return false;
            return tensor.format == channels_last(tensor.type) ||
                (tensor.format == TensorFormat::kLINEAR && offers_linear(tensor));
        }
        const bool is_output = position == static_cast<int>(inputs.size());
        return tensor.type == first.type && tensor.format == (is_output ? TensorFormat::kLINEAR : first.format);
    }

    Work plan(const PluginTensorDesc* input, const PluginTensorDesc* output) const override {
        Work work;
        if (volume(output[0].dims) == 0) return work;
        const long long images = input[0].dims.d[0];
        const int boxes = static_cast<int>(input[0].dims.d[1]), channels = static_cast<int>(input[1].dims.d[1]);
        RoiAlignParams params = {};
        params.levels = static_cast<int>(strides_.size());
        params.rois_per_image = boxes;
        params.channels = channels;
        params.output_size = size_;
        params.sampling_ratio = sampling_ratio_;
        params.aligned = aligned_;
        for (int level = 0; level < params.levels; ++level) {
            const nvinfer1::Dims& map = input[level + 1].dims;
            if (map.nbDims != 4 || map.d[0] != images || map.d[1] != channels || volume(map) == 0) {
                throw Refusal(name + ": feature_" + std::to_string(level) + " is " + text(map));
            }
            describe_level(params, level, input[level + 1]);
        }
        const DataType type = input[1].type;
        const int bytes = type == DataType::kFLOAT ? 4 : 2;
        HindsightLaunch chosen = {};
        bool vector = input[1].format != TensorFormat::kLINEAR;
        if (vector) {
            chosen = hindsight_roi_align_launch(images, boxes, channels, size_, bytes, bytes, true);
            vector = chosen.channels_per_block != 0;
        }
        if (!vector) chosen = hindsight_roi_align_launch(images, boxes, channels, size_, bytes, bytes, false);
        params.channels_per_block = chosen.channels_per_block;
        work.kernel = find_kernel(kernel_name(vector, type).c_str());
        work.launch = chosen;
        work.params = params;
        return work;
    }

    void bind(Work& work, const void* const* input, void* const* output, void*) const override {
        RoiAlignParams& params = std::get<RoiAlignParams>(work.params);
        for (std::size_t i = 0; i < inputs.size(); ++i) check_address(*this, inputs[i], input[i]);
        check_address(*this, "pooled", output[0]);
        params.rois = static_cast<const float*>(input[0]);
        for (int level = 0; level < params.levels; ++level) params.features[level] = input[level + 1];
        params.output = output[0];
    }

private:
    // Not for 16-bit maps that the fast kernel takes: builders that measure nothing (TensorRT-RTX without a GPU)
    // would choose it, and turning a map over costs less than pooling it slowly. In float32 both are offered:
    // not every layer of an engine writes it channels-last.
    bool offers_linear(const PluginTensorDesc& map) const {
        const bool known = map.dims.nbDims == 4 && map.dims.d[1] > 0;
        if (map.type == DataType::kFLOAT || !known) return true;
        const int channels = static_cast<int>(map.dims.d[1]);
        return hindsight_roi_align_launch(1, 1, channels, size_, 2, 2, true).channels_per_block == 0;
    }

    [[noreturn]] void refuse(const char* expected, int found) const {
        throw Refusal(name + ": expected " + expected + ", got " + std::to_string(found));
    }

    void describe_level(RoiAlignParams& params, int level, const PluginTensorDesc& map) const {
        const long long channels = map.dims.d[1], height = map.dims.d[2], width = map.dims.d[3];
        const bool linear = map.format == TensorFormat::kLINEAR;
        const long long pad = map.format == TensorFormat::kHWC8 ? 8 : 1;
        const long long padded = (channels + pad - 1) / pad * pad;
        const long long elements = padded * height * width;
        if (elements > kMaxElements) {
            throw Refusal(
                name + ": feature_" + std::to_string(level) +
                " has more elements an image than the kernel can count: " + std::to_string(elements)
            );
        }
        params.image_strides[level] = elements;
        params.channel_strides[level] = static_cast<int>(linear ? height * width : 1);
        params.row_strides[level] = static_cast<int>(linear ? width : width * padded);
        params.column_strides[level] = static_cast<int>(linear ? 1 : padded);
        params.heights[level] = static_cast<int>(height);
        params.widths[level] = static_cast<int>(width);
        const std::int32_t stride = strides_[static_cast<std::size_t>(level)];
        params.scales[level] = static_cast<float>(1.0 / stride);
        params.least_sides[level] = kSidePerStride * static_cast<float>(stride);
    }

    std::vector<std::int32_t> strides_;
    int size_, sampling_ratio_, aligned_;
};

}  // namespace

void add_roi_align(std::vector<Species>& all) {
    const std::vector<Announced> attributes = {
        {"strides", Kind::kIntegers},
        {"output_size", Kind::kInteger},
        {"sampling_ratio", Kind::kInteger},
        {"aligned", Kind::kInteger},
    };
    for (int levels = 1; levels <= kMaxLevels; ++levels) {
        all.push_back({
            "MultilevelRoiAlign" + std::to_string(levels),
            attributes,
            [](const std::string& name, const Attributes& values) -> Shared {
                return std::make_shared<RoiAlign>(name, values);
            },
        });
    }
}

}  // namespace hindsight_trt
