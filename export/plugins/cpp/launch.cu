// The kernels' very sources, compiled by nvcc into the plugin library, and their launch through CUDA's runtime.
// -fmad=false, as everywhere: platform.h says why.
#include "roi_align.cu"

#include "batched_nms.cu"
#include "iou_guided_nms.cu"
#include "soft_nms.cu"

#include <cstring>

#include <cuda_runtime_api.h>

#include "launch.h"

namespace hindsight_trt {
namespace {

struct Entry {
    const char* source;
    const char* name;
    const void* function;
};

#define ENTRY(source, name) \
    { #source, #name, reinterpret_cast<const void*>(&name) }

const Entry kEntries[] = {
    ENTRY(roi_align, roi_align_vector_f32_f32),
    ENTRY(roi_align, roi_align_vector_f16_f16),
    ENTRY(roi_align, roi_align_vector_bf16_bf16),
    ENTRY(roi_align, roi_align_strided_f32_f32),
    ENTRY(roi_align, roi_align_strided_f16_f16),
    ENTRY(roi_align, roi_align_strided_bf16_bf16),
    ENTRY(batched_nms, batched_nms),
    ENTRY(iou_guided_nms, iou_guided_nms),
    ENTRY(soft_nms, soft_nms),
};

const char* text_of(cudaError_t status) { return status == cudaSuccess ? nullptr : cudaGetErrorString(status); }

}  // namespace

const void* find_kernel(const char* name) {
    for (const Entry& entry : kEntries) {
        if (std::strcmp(entry.name, name) == 0) return entry.function;
    }
    return nullptr;
}

const char* load_kernels(const char* source) {
    for (const Entry& entry : kEntries) {
        if (std::strcmp(entry.source, source) != 0) continue;
        // asking for its attributes loads a kernel, which CUDA else puts off to the first launch
        cudaFuncAttributes attributes;
        const cudaError_t status = cudaFuncGetAttributes(&attributes, entry.function);
        if (status != cudaSuccess) return text_of(status);
    }
    return nullptr;
}

const char* launch(const void* kernel, const void* params, const HindsightLaunch& shape, void* stream) {
    if (shape.blocks > 2147483647LL) return "more blocks than a grid holds";
    void* arguments[] = {const_cast<void*>(params)};
    return text_of(cudaLaunchKernel(
        kernel, dim3(static_cast<unsigned>(shape.blocks)), dim3(static_cast<unsigned>(shape.threads)), arguments,
        static_cast<size_t>(shape.shared_bytes), static_cast<cudaStream_t>(stream)
    ));
}

}  // namespace hindsight_trt
