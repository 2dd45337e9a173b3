// What each kernel is handed, by value. Plain C: the torch launcher (params.py) mirrors it with ctypes, the
// plugins include it. Pointers are device pointers; strides count elements.
#ifndef HINDSIGHT_PARAMS_H
#define HINDSIGHT_PARAMS_H

enum {
    HINDSIGHT_MAX_LEVELS = 8,
    // Shared memory, in bytes, beside the keys of a list or the staged results; the kernels assert it.
    HINDSIGHT_ROI_SHARED = 4096,
    HINDSIGHT_NMS_SHARED = 3616,
    HINDSIGHT_SHARED_KEYS = 4096,       // of a list; more lie in the workspace
    HINDSIGHT_STAGE_BYTES = 26 * 1024,  // 14 x 14 x 32 float32; leaves room for several blocks on an SM
    HINDSIGHT_SLICE = 64                // channels a block pools
};

struct RoiAlignParams {
    const void* features[HINDSIGHT_MAX_LEVELS];  // [B, C, h, w] in any layout
    const float* rois;                           // [B, N, 4] xyxy, 16-byte aligned
    void* output;                                // [B * N, C, s, s] contiguous, 16-byte aligned
    long long image_strides[HINDSIGHT_MAX_LEVELS];
    int channel_strides[HINDSIGHT_MAX_LEVELS];
    int row_strides[HINDSIGHT_MAX_LEVELS];
    int column_strides[HINDSIGHT_MAX_LEVELS];
    int heights[HINDSIGHT_MAX_LEVELS];
    int widths[HINDSIGHT_MAX_LEVELS];
    float scales[HINDSIGHT_MAX_LEVELS];       // 1 / stride in pixels
    float least_sides[HINDSIGHT_MAX_LEVELS];  // sqrt(area) from which a box has reached the level; [0] unread
    int levels;
    int rois_per_image;
    int channels;
    int output_size;
    int sampling_ratio;  // 0: as many samples a bin as it is feature pixels long
    int aligned;
    int channels_per_block;
};

struct NmsParams {
    const float* boxes;         // [G, N, 4] xyxy, 16-byte aligned
    const float* scores;        // [G, C, N], -inf or NaN = absent
    const float* ious;          // [G, N] predicted; IoU-guided only
    const float* threshold;     // [1]
    unsigned char* keep;        // [G, C, N]
    float* kept_scores;         // [G, C, N]; IoU-guided only
    unsigned long long* spill;  // workspace: [G * C, spill_keys]; unread while N <= shared_keys
    int classes;
    int count;
    int shared_keys;
    int spill_keys;
};

struct SoftNmsParams {
    const float* boxes;         // [G, N, 4] xyxy, 16-byte aligned
    const float* scores;        // [G, C, N]
    const float* threshold;     // [1]
    float* decayed;             // [G, C, N]
    unsigned long long* spill;  // as in NmsParams
    int classes;
    int count;
    int shared_keys;
    int spill_keys;
    int steps;
    int gaussian;  // else linear
    float sigma;
    float min_score;
};

#endif
