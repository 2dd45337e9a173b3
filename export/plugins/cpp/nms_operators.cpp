// BatchedNms, IouGuidedNms and SoftNms: one launch of the kernel of the same name each.
// Boxes float32 [G, N, 4], scores float32 [G, K, N], predicted IoUs float32 [G, N], threshold float32 [1].
#include "launch.h"
#include "operator.h"

namespace hindsight_trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

const std::size_t kKeyBytes = 8;

// What the three share: types, shapes and workspace.
class Suppression : public Operator {
public:
    std::vector<DataType> output_types(const std::vector<DataType>& types) const override {
        check_count(*this, types.size());
        for (std::size_t i = 0; i < types.size(); ++i) {
            if (types[i] != DataType::kFLOAT) {
                throw Refusal(name + ": expected " + inputs[i] + " of type FLOAT, got " + type_name(types[i]));
            }
        }
        std::vector<DataType> found;
        for (const std::string& output : outputs) found.push_back(type_of(output));
        return found;
    }

    std::vector<DimsExprs> output_shapes(const DimsExprs* shapes, nvinfer1::IExprBuilder&) const override {
        const int last = static_cast<int>(inputs.size()) - 1;
        const DimsExprs &boxes = shapes[0], &scores = shapes[1], &threshold = shapes[last];
        check_rank(*this, 0, boxes, 3, "[G, N, 4]");
        check_rank(*this, 1, scores, 3, "[G, K, N]");
        check_rank(*this, last, threshold, 1, "[1]");
        check_size(*this, "the last size of boxes", boxes.d[2], 4);
        check_size(*this, "the size of threshold", threshold.d[0], 1);
        check_same(*this, "groups of boxes and scores", boxes.d[0], scores.d[0]);
        check_same(*this, "counts of boxes and scores", boxes.d[1], scores.d[2]);
        if (has_ious()) {
            check_rank(*this, 2, shapes[2], 2, "[G, N]");
            check_same(*this, "groups of boxes and ious", boxes.d[0], shapes[2].d[0]);
            check_same(*this, "counts of boxes and ious", boxes.d[1], shapes[2].d[1]);
        }
        return std::vector<DimsExprs>(outputs.size(), scores);
    }

    bool supports(int position, const DynamicPluginTensorDesc* tensors) const override {
        const std::size_t at = static_cast<std::size_t>(position);
        const std::string& which = at < inputs.size() ? inputs[at] : outputs[at - inputs.size()];
        const bool is_output = at >= inputs.size();
        const DataType wanted = is_output ? type_of(which) : DataType::kFLOAT;
        return tensors[position].desc.type == wanted && tensors[position].desc.format == TensorFormat::kLINEAR;
    }

    std::size_t workspace_bytes(const std::vector<Dims>& shapes) const override {
        const long long lists = shapes[1].d[0] * shapes[1].d[1];
        const HindsightLaunch launch = hindsight_nms_launch(lists, static_cast<int>(shapes[1].d[2]));
        return static_cast<std::size_t>(lists) * static_cast<std::size_t>(launch.spill_keys) * kKeyBytes;
    }

    Work plan(const PluginTensorDesc* input, const PluginTensorDesc* output) const override {
        Work work;
        if (volume(output[0].dims) == 0) return work;
        const Dims &boxes = input[0].dims, &scores = input[1].dims, &threshold = input[inputs.size() - 1].dims;
        bool fine = boxes.nbDims == 3 && scores.nbDims == 3 && volume(threshold) == 1 && boxes.d[2] == 4 &&
            boxes.d[0] == scores.d[0] && boxes.d[1] == scores.d[2];
        if (has_ious()) {
            const Dims& ious = input[2].dims;
            fine = fine && ious.nbDims == 2 && ious.d[0] == boxes.d[0] && ious.d[1] == boxes.d[1];
        }
        if (!fine) throw Refusal(name + ": boxes " + text(boxes) + " and scores " + text(scores) + " disagree");
        work.kernel = find_kernel(source.c_str());
        fill(work, scores.d[0] * scores.d[1], static_cast<int>(scores.d[1]), static_cast<int>(scores.d[2]));
        return work;
    }

protected:
    bool has_ious() const { return inputs.size() == 4; }

    // Launch and parameters, all but the addresses.
    virtual void fill(Work& work, long long lists, int classes, int count) const = 0;

private:
    static DataType type_of(const std::string& output) {
        return output == "keep" ? DataType::kBOOL : DataType::kFLOAT;
    }
};

// BatchedNms and IouGuidedNms.
class GreedyNms : public Suppression {
public:
    explicit GreedyNms(bool guided) {
        name = guided ? "IouGuidedNms" : "BatchedNms";
        source = guided ? "iou_guided_nms" : "batched_nms";
        if (guided) inputs = {"boxes", "class_scores", "ious", "threshold"};
        else inputs = {"boxes", "scores", "threshold"};
        if (guided) outputs = {"keep", "scores"};
        else outputs = {"keep"};
    }

    void bind(Work& work, const void* const* input, void* const* output, void* workspace) const override {
        NmsParams& params = std::get<NmsParams>(work.params);
        check_address(*this, "boxes", input[0]);
        params.boxes = static_cast<const float*>(input[0]);
        params.scores = static_cast<const float*>(input[1]);
        params.threshold = static_cast<const float*>(input[inputs.size() - 1]);
        params.keep = static_cast<unsigned char*>(output[0]);
        if (has_ious()) {
            params.ious = static_cast<const float*>(input[2]);
            params.kept_scores = static_cast<float*>(output[1]);
        }
        params.spill = static_cast<unsigned long long*>(workspace);
    }

protected:
    void fill(Work& work, long long lists, int classes, int count) const override {
        work.launch = hindsight_nms_launch(lists, count);
        NmsParams params = {};
        params.classes = classes;
        params.count = count;
        params.shared_keys = work.launch.shared_keys;
        params.spill_keys = work.launch.spill_keys;
        work.params = params;
    }
};

class SoftNms : public Suppression {
public:
    explicit SoftNms(const Attributes& attributes)
        : gaussian_(attributes.text("method") == "gaussian"), sigma_(attributes.number("sigma")),
          min_score_(attributes.number("min_score")), steps_(attributes.integer("steps")) {
        name = "SoftNms";
        source = "soft_nms";
        inputs = {"boxes", "scores", "threshold"};
        outputs = {"decayed"};
        const std::string& method = attributes.text("method");
        if (!gaussian_ && method != "linear") {
            throw Refusal(name + ": expected method to be linear or gaussian, got '" + method + "'");
        }
        if (gaussian_ && !(sigma_ > 0)) {
            throw Refusal(name + ": expected sigma above 0, got " + std::to_string(sigma_));
        }
        if (steps_ < 0) throw Refusal(name + ": expected steps of 0 or more, got " + std::to_string(steps_));
    }

    void bind(Work& work, const void* const* input, void* const* output, void* workspace) const override {
        SoftNmsParams& params = std::get<SoftNmsParams>(work.params);
        check_address(*this, "boxes", input[0]);
        params.boxes = static_cast<const float*>(input[0]);
        params.scores = static_cast<const float*>(input[1]);
        params.threshold = static_cast<const float*>(input[2]);
        params.decayed = static_cast<float*>(output[0]);
        params.spill = static_cast<unsigned long long*>(workspace);
    }

protected:
    void fill(Work& work, long long lists, int classes, int count) const override {
        work.launch = hindsight_soft_nms_launch(lists, count);
        SoftNmsParams params = {};
        params.classes = classes;
        params.count = count;
        params.shared_keys = work.launch.shared_keys;
        params.spill_keys = work.launch.spill_keys;
        params.steps = steps_;
        params.gaussian = gaussian_ ? 1 : 0;
        params.sigma = sigma_;
        params.min_score = min_score_;
        work.params = params;
    }

private:
    bool gaussian_;
    float sigma_, min_score_;
    int steps_;
};

}  // namespace

void add_nms(std::vector<Species>& all) {
    all.push_back({"BatchedNms", {}, [](const std::string&, const Attributes&) -> Shared {
        return std::make_shared<GreedyNms>(false);
    }});
    all.push_back({"IouGuidedNms", {}, [](const std::string&, const Attributes&) -> Shared {
        return std::make_shared<GreedyNms>(true);
    }});
    const std::vector<Announced> attributes = {
        {"method", Kind::kText},
        {"sigma", Kind::kNumber},
        {"min_score", Kind::kNumber},
        {"steps", Kind::kInteger},
    };
    all.push_back({"SoftNms", attributes, [](const std::string&, const Attributes& values) -> Shared {
        return std::make_shared<SoftNms>(values);
    }});
}

}  // namespace hindsight_trt
