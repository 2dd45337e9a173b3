// How the kernels are launched: grid, block, shared memory and workspace. For the C++ plugin; params.py says the
// same in Python, and a test holds the two together. Plain C++, no CUDA.
#ifndef HINDSIGHT_GEOMETRY_H
#define HINDSIGHT_GEOMETRY_H

#include "params.h"

struct HindsightLaunch {
    long long blocks;  // all in gridDim.x
    int threads;
    int shared_bytes;  // dynamic; below 48 KiB, so that no attribute need be set
    int shared_keys, spill_keys;  // NMS; workspace: 8 * lists * spill_keys bytes
    int channels_per_block;       // RoI-Align; 0: the vector kernel cannot take it
};

inline int hindsight_power_of_two(int least) {
    int power = 1;
    while (power < least) power *= 2;
    return power;
}

// G * C lists of `count` boxes each, for batched and IoU-guided NMS. Few long lists (the RPN's: one a
// level and image) leave SMs idle whatever one does, so each gets the largest block; hundreds of lists, most of
// them nearly empty after the score threshold, share the SMs in small blocks.
inline HindsightLaunch hindsight_nms_launch(long long lists, int count) {
    HindsightLaunch launch = {};
    const int padded = hindsight_power_of_two(count);
    launch.blocks = lists;
    launch.threads = lists <= 256 && count > 512 ? 1024 : 256;
    launch.shared_keys = padded < HINDSIGHT_SHARED_KEYS ? padded : HINDSIGHT_SHARED_KEYS;
    launch.spill_keys = count > HINDSIGHT_SHARED_KEYS ? padded : 0;
    launch.shared_bytes = HINDSIGHT_NMS_SHARED + 8 * launch.shared_keys;
    return launch;
}

// The same for soft NMS. A step costs each thread its candidates and one barrier of the block: beyond four
// candidates a thread more threads only make the barrier dearer.
inline HindsightLaunch hindsight_soft_nms_launch(long long lists, int count) {
    HindsightLaunch launch = hindsight_nms_launch(lists, count);
    const int wanted = hindsight_power_of_two(count) / 4;
    launch.threads = lists > 256 || wanted < 128 ? 128 : wanted > 1024 ? 1024 : wanted;
    return launch;
}

// `vector`: the kernel for channels-last maps. in_bytes, out_bytes: of one value.
inline HindsightLaunch hindsight_roi_align_launch(
    long long images, int boxes, int channels, int side, int in_bytes, int out_bytes, bool vector
) {
    HindsightLaunch launch = {};
    int slice = HINDSIGHT_SLICE;
    if (vector) {
        const int least = 16 / in_bytes;
        while (slice > least && (slice / 2 >= channels || slice * side * side * out_bytes > HINDSIGHT_STAGE_BYTES)) {
            slice /= 2;
        }
        if (channels % least != 0 || slice * side * side * out_bytes > HINDSIGHT_STAGE_BYTES) slice = 0;
    }
    launch.channels_per_block = slice;
    if (slice == 0) return launch;
    launch.blocks = images * boxes * ((channels + slice - 1) / slice);
    launch.threads = vector ? 224 : 256;
    launch.shared_bytes = HINDSIGHT_ROI_SHARED + (vector ? slice * side * side * out_bytes : 0);
    return launch;
}

#endif
