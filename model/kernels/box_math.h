// Box arithmetic and orderings, operation for operation those of model/boxes.py and torch's sort.
#ifndef HINDSIGHT_BOX_MATH_H
#define HINDSIGHT_BOX_MATH_H

#include "platform.h"

namespace hindsight {

struct alignas(16) Box {
    float x1, y1, x2, y2;
};

HINDSIGHT_DEVICE Box load_box(const float* boxes, long long row) {
    const Words words = load_words(boxes + 4 * row);
    return {from_bits(words.word[0]), from_bits(words.word[1]), from_bits(words.word[2]), from_bits(words.word[3])};
}

// torch's clamp and maximum hand NaN on, CUDA's fmaxf swallows it: a box with a NaN must end with an IoU of
// NaN, which is above no threshold, so that it neither suppresses nor is suppressed. NaN in any coordinate
// makes the area NaN, which is enough: the overlap need not hand it on.
HINDSIGHT_DEVICE float clamp_below(float value, float least) { return value < least ? least : value; }

HINDSIGHT_DEVICE float area(const Box& box) {
    return clamp_below(box.x2 - box.x1, 0.0f) * clamp_below(box.y2 - box.y1, 0.0f);
}

HINDSIGHT_DEVICE float overlap(const Box& a, const Box& b) {
    const float width = (a.x2 < b.x2 ? a.x2 : b.x2) - (a.x1 > b.x1 ? a.x1 : b.x1);
    const float height = (a.y2 < b.y2 ? a.y2 : b.y2) - (a.y1 > b.y1 ? a.y1 : b.y1);
    return clamp_below(width, 0.0f) * clamp_below(height, 0.0f);
}

HINDSIGHT_DEVICE float iou_of(float shared, float area_a, float area_b) {
    return shared / clamp_below(area_a + area_b - shared, 1e-9f);
}

// Whether IoU(a, b) > threshold. Most pairs do not touch: they are spared the division, the dearest part.
HINDSIGHT_DEVICE bool suppresses(const Box& a, float area_a, const Box& b, float area_b, float threshold) {
    const float shared = overlap(a, b);
    if (!(shared > 0.0f) && threshold >= 0.0f) return false;
    return iou_of(shared, area_a, area_b) > threshold;
}

// Floats as unsigned integers of the same order. -0 equals +0, as where torch compares; any NaN comes above
// all, as where torch sorts.
HINDSIGHT_DEVICE unsigned to_ordered(float value) {
    if (value != value) return 0xffffffffu;
    const unsigned bits = to_bits(value + 0.0f);
    return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

HINDSIGHT_DEVICE float from_ordered(unsigned ordered) {
    return from_bits((ordered & 0x80000000u) ? ordered ^ 0x80000000u : ~ordered);
}

}  // namespace hindsight

#endif
