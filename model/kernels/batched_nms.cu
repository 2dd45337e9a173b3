// BatchedNms: hard suppression of every (group, class) list at once, ranked by score (model/ops/nms.py).
// Grid: one block per list, blockDim a multiple of 32, 64 to 1024. Shared memory: geometry.h.
#include "greedy_nms.h"

HINDSIGHT_KERNEL __launch_bounds__(1024) batched_nms(const __grid_constant__ NmsParams params) {
    hindsight::suppress_list<false>(params);
}
