// The kernels as a shared library for tests: each by its own name, taking its parameters and a launch.
#include "roi_align.cu"

#include "batched_nms.cu"
#include "iou_guided_nms.cu"
#include "soft_nms.cu"

#include "geometry.h"

#define EXPORT(name, Params)                                                                              \
    extern "C" void run_##name(                                                                           \
        const Params* params, unsigned blocks, unsigned threads, unsigned shared, unsigned order          \
    ) {                                                                                                   \
        host_grid::run(                                                                                   \
            [](const void* p) { name(*static_cast<const Params*>(p)); }, params, blocks, threads, shared, \
            order                                                                                         \
        );                                                                                                \
    }

EXPORT(batched_nms, NmsParams)
EXPORT(iou_guided_nms, NmsParams)
EXPORT(soft_nms, SoftNmsParams)
EXPORT(roi_align_vector_f32_f32, RoiAlignParams)
EXPORT(roi_align_vector_f16_f32, RoiAlignParams)
EXPORT(roi_align_vector_f16_f16, RoiAlignParams)
EXPORT(roi_align_vector_bf16_f32, RoiAlignParams)
EXPORT(roi_align_vector_bf16_bf16, RoiAlignParams)
EXPORT(roi_align_strided_f32_f32, RoiAlignParams)
EXPORT(roi_align_strided_f16_f32, RoiAlignParams)
EXPORT(roi_align_strided_f16_f16, RoiAlignParams)
EXPORT(roi_align_strided_bf16_f32, RoiAlignParams)
EXPORT(roi_align_strided_bf16_bf16, RoiAlignParams)

extern "C" void nms_launch(long long lists, int count, int soft, long long* launch) {
    const HindsightLaunch found = soft ? hindsight_soft_nms_launch(lists, count) : hindsight_nms_launch(lists, count);
    launch[0] = found.blocks;
    launch[1] = found.threads;
    launch[2] = found.shared_bytes;
    launch[3] = found.spill_keys;
    launch[4] = found.shared_keys;
}

extern "C" void roi_align_launch(
    long long images, int boxes, int channels, int side, int in_bytes, int out_bytes, int vector, long long* launch
) {
    const HindsightLaunch found =
        hindsight_roi_align_launch(images, boxes, channels, side, in_bytes, out_bytes, vector != 0);
    launch[0] = found.blocks;
    launch[1] = found.threads;
    launch[2] = found.shared_bytes;
    launch[3] = found.channels_per_block;
}

extern "C" unsigned sizes_of_params(int which) {
    return which == 0 ? sizeof(RoiAlignParams) : which == 1 ? sizeof(NmsParams) : sizeof(SoftNmsParams);
}

extern "C" unsigned sizes_of_shared(int which) {
    using namespace hindsight;
    return which == 0 ? sizeof(RoiShared) : which == 1 ? sizeof(Tile) : sizeof(SoftShared);
}
