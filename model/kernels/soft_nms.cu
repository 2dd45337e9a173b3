// SoftNms: the best box left is picked and the others lose score by their overlap with it, `steps` times
// (model/ops/soft_nms.py). Grid: one block per (group, class) list. Shared memory: geometry.h.
//
// Picks follow one another, so what counts is the time of one step: each thread decays its candidates and finds
// the best of them in the same pass, then ONE barrier a step: the warps' bests lie in two buffers in turn, and
// every thread reduces the few of them itself, instead of one thread doing so and a second barrier. Absent rows
// are no candidates, and a list ends when it is empty: `steps` is a bound, not a cost.
#include "key_list.h"
#include "params.h"

namespace hindsight {

// score << 32 | ~row: the greatest key is the best score and, of equal ones, the lowest row. 0 is no candidate.
struct BestFirst {
    const float* scores;
    float min_score;
    HINDSIGHT_DEVICE bool present(int row) const {
        return scores[row] >= min_score && scores[row] > -infinity();
    }
    static HINDSIGHT_DEVICE Key make(float score, unsigned row) {
        return static_cast<Key>(to_ordered(score)) << 32 | static_cast<unsigned>(~row);
    }
    HINDSIGHT_DEVICE Key key(int row) const { return make(scores[row], static_cast<unsigned>(row)); }
};

HINDSIGHT_DEVICE unsigned row_of_pick(Key key) { return ~static_cast<unsigned>(key); }
HINDSIGHT_DEVICE float score_of_pick(Key key) { return from_ordered(static_cast<unsigned>(key >> 32)); }

struct alignas(16) SoftShared {
    Key best_of_warp[2][kWarp];
    int counter;
    int padding[3];
};
static_assert(sizeof(SoftShared) <= HINDSIGHT_NMS_SHARED, "geometry.h reserves less");

HINDSIGHT_DEVICE Key best_of_block(Key best, Key* best_of_warp) {
    for (int distance = kWarp / 2; distance > 0; distance >>= 1) {
        const unsigned high = __shfl_xor_sync(kAllLanes, static_cast<unsigned>(best >> 32), distance);
        const unsigned low = __shfl_xor_sync(kAllLanes, static_cast<unsigned>(best), distance);
        const Key other = static_cast<Key>(high) << 32 | low;
        if (other > best) best = other;
    }
    if (threadIdx.x % kWarp == 0) best_of_warp[threadIdx.x / kWarp] = best;
    __syncthreads();
    best = 0;
    for (unsigned warp = 0; warp < blockDim.x / kWarp; ++warp) {
        if (best_of_warp[warp] > best) best = best_of_warp[warp];
    }
    return best;
}

HINDSIGHT_DEVICE float decay(float iou, float threshold, const SoftNmsParams& params) {
    if (params.gaussian) return expf(-(iou * iou) / params.sigma);
    return iou > threshold ? 1.0f - iou : 1.0f;
}

}  // namespace hindsight

HINDSIGHT_KERNEL __launch_bounds__(1024) soft_nms(const __grid_constant__ SoftNmsParams params) {
    using namespace hindsight;
    HINDSIGHT_DYNAMIC_SHARED(raw);
    SoftShared& state = *reinterpret_cast<SoftShared*>(raw);
    Key* shared = reinterpret_cast<Key*>(raw + sizeof(SoftShared));

    const int thread = threadIdx.x, threads = blockDim.x, count = params.count;
    const long long list = blockIdx.x, group = list / params.classes;
    const float* boxes = params.boxes + 4 * group * count;
    float* decayed = params.decayed + list * count;
    const float threshold = *params.threshold;

    for (int row = thread; row < count; row += threads) decayed[row] = -infinity();

    const BestFirst rule = {params.scores + list * count, params.min_score};
    Key* keys = place_of_keys(
        rule, count, shared, params.shared_keys, params.spill, params.spill_keys, &state.counter);
    const int present = gather_keys(rule, count, keys, &state.counter);

    Key best = 0;
    for (int i = thread; i < present; i += threads) best = keys[i] > best ? keys[i] : best;
    for (int step = 0; step < params.steps; ++step) {
        const Key pick = best_of_block(best, state.best_of_warp[step % 2]);
        if (pick == 0) break;  // the same in every thread
        const unsigned row = row_of_pick(pick);
        if (thread == 0) decayed[row] = score_of_pick(pick);
        const Box picked = load_box(boxes, row);
        const float picked_area = area(picked);
        best = 0;
        for (int i = thread; i < present; i += threads) {
            Key key = keys[i];
            if (key == 0) continue;
            if (key == pick) {
                keys[i] = 0;
                continue;
            }
            const Box box = load_box(boxes, row_of_pick(key));
            const float iou = iou_of(overlap(picked, box), picked_area, area(box));
            const float score = score_of_pick(key) * decay(iou, threshold, params);
            // false for NaN too: such a box is dropped, as in torch
            key = score >= params.min_score && score > -infinity() ? BestFirst::make(score, row_of_pick(key)) : 0;
            keys[i] = key;
            best = key > best ? key : best;
        }
    }
}
