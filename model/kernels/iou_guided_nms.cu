// IouGuidedNms: hard suppression ranked by predicted IoU; a kept box takes the highest class score of its
// cluster (model/ops/iou_guided_nms.py). Grid and shared memory as in batched_nms.cu.
#include "greedy_nms.h"

HINDSIGHT_KERNEL __launch_bounds__(1024) iou_guided_nms(const __grid_constant__ NmsParams params) {
    hindsight::suppress_list<true>(params);
}
