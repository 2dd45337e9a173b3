// Where RoI-Align samples: level, bins and bilinear weights, operation for operation those of torchvision.
#ifndef HINDSIGHT_ROI_MATH_H
#define HINDSIGHT_ROI_MATH_H

#include "box_math.h"
#include "params.h"

namespace hindsight {

// FPN's floor(4 + log2(side / 224) + 1e-6) >= log2(stride), solved for the side: side * 2^1e-6 >= 14 * stride.
// Without the logarithm the answer is the same on every machine. A box without area, or not a number, takes the
// finest level.
HINDSIGHT_DEVICE int level_of(const Box& box, const RoiAlignParams& params) {
    const float area = (box.x2 - box.x1) * (box.y2 - box.y1);
    const float side = sqrtf(area > 0.0f ? area : 0.0f) * 1.0000006931474208f;
    int level = 0;
    for (int i = 1; i < params.levels; ++i) level += side >= params.least_sides[i];
    return level;
}

// One axis of a box on its level: bin i starts at start + i * bin and holds `samples` samples.
struct Axis {
    float start;
    float bin;
    int samples;
    int size;    // of the map
    int stride;  // of the map, in elements
};

HINDSIGHT_DEVICE Axis make_axis(
    float from, float to, float scale, int size, int stride, const RoiAlignParams& params
) {
    const float offset = params.aligned ? 0.5f : 0.0f;
    const float start = from * scale - offset;
    float length = to * scale - offset - start;
    // the original RoI-Align never pools less than one feature pixel
    if (!params.aligned) length = clamp_below(length, 1.0f);
    const float bin = length / static_cast<float>(params.output_size);
    int samples = params.sampling_ratio;
    // inverted, NaN and boundless boxes get no samples, hence zero
    if (samples <= 0) samples = bin > 0.0f && bin < 1e9f ? static_cast<int>(ceilf(bin)) : 0;
    return {start, bin, samples, size, stride};
}

// The two pixels that one coordinate lies between, as offsets, and their weights. low < 0: farther than one
// pixel outside, where the map is zero.
struct alignas(16) Tap {
    int low, high;
    float low_weight, high_weight;
};

HINDSIGHT_DEVICE Tap tap(const Axis& axis, int bin, int sample) {
    const float position = axis.start + static_cast<float>(bin) * axis.bin +
        (static_cast<float>(sample) + 0.5f) * axis.bin / static_cast<float>(axis.samples);
    // NaN fails the test as well
    if (!(position >= -1.0f && position <= static_cast<float>(axis.size))) return {-1, -1, 0.0f, 0.0f};
    const float inside = clamp_below(position, 0.0f);
    const int low = static_cast<int>(inside);
    if (low >= axis.size - 1) {
        const int last = (axis.size - 1) * axis.stride;
        return {last, last, 1.0f, 0.0f};
    }
    const float high_weight = inside - static_cast<float>(low);
    return {low * axis.stride, (low + 1) * axis.stride, 1.0f - high_weight, high_weight};
}

// Samples first..last-1 of a bin include all that can lie on the map. A box far larger than the map has
// millions of samples (sampling_ratio 0), nearly all outside: they are not visited, so no box can hang the GPU.
struct Span {
    int first, last;
};

HINDSIGHT_DEVICE Span span_on_map(const Axis& axis, int bin) {
    const float begin = axis.start + static_cast<float>(bin) * axis.bin;
    const float step = axis.bin / static_cast<float>(axis.samples);
    float first = (-1.0f - begin) / step, last = (static_cast<float>(axis.size) - begin) / step;
    first -= 2.0f + fabsf(first) * 1e-6f;  // float32 positions are off by rounding
    last += 2.0f + fabsf(last) * 1e-6f;
    const float samples = static_cast<float>(axis.samples);
    if (!(step > 0.0f)) return {0, axis.samples};
    if (!(first < samples) || !(last > 0.0f)) return {0, 0};
    return {first > 0.0f ? static_cast<int>(first) : 0, last < samples ? static_cast<int>(last) + 1 : axis.samples};
}

}  // namespace hindsight

#endif
