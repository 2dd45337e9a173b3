// Greedy suppression of one list by one thread block: the body of batched_nms.cu and iou_guided_nms.cu.
//
// Sorted candidates are taken in tiles of 64. A tile is settled within itself (a 64 x 64 bit matrix, then one
// thread walks 64 registers' worth of bits), and the boxes it keeps strike out all later candidates, every
// thread at once. Why not the N x N bit matrix that such kernels usually make: it costs N^2 / 8 bytes a list
// (800 MB a class-agnostic image), has to be computed for pairs whose first box is dropped anyway, and its walk
// is one dependent global load per kept box, which is what such kernels spend their time on. Here work is
// (boxes kept) x (boxes left), memory is 8 bytes a candidate, and nothing but boxes is read from global
// memory: those of one image stay in L1. The sort is inside for the same reason: a list of dozens sorts in
// shared memory within microseconds, and the TensorRT plugins have no sort to call.
#ifndef HINDSIGHT_GREEDY_NMS_H
#define HINDSIGHT_GREEDY_NMS_H

#include "key_list.h"
#include "params.h"

namespace hindsight {

const int kTile = 64;
const Key kStruck = 1ull << 63;  // a sorted key holds its row and, once suppressed, this

struct alignas(16) Tile {
    Box boxes[kTile];
    Box kept_boxes[kTile];
    float areas[kTile];
    float kept_areas[kTile];
    unsigned hits[kTile][2];  // bit c of row r: box r suppresses box c, were it kept. Symmetric.
    unsigned best[kTile];     // IoU-guided: highest class score of each kept box's cluster, as ordered integer
    int kept_rows[kTile];
    unsigned struck[2];
    int counter;
    int padding;
    Key kept;
};
static_assert(sizeof(Tile) == HINDSIGHT_NMS_SHARED, "geometry.h reserves another size");

struct ByScore {
    const float* scores;
    HINDSIGHT_DEVICE bool present(int row) const { return scores[row] > -infinity(); }
    HINDSIGHT_DEVICE Key key(int row) const {
        return static_cast<Key>(~to_ordered(scores[row])) << 32 | static_cast<unsigned>(row);
    }
};

struct ByIou {
    const float* scores;
    const float* ious;
    HINDSIGHT_DEVICE bool present(int row) const { return scores[row] > -infinity(); }
    HINDSIGHT_DEVICE Key key(int row) const {
        return static_cast<Key>(~to_ordered(ious[row])) << 32 | static_cast<unsigned>(row);
    }
};

HINDSIGHT_DEVICE int row_of(Key key) { return static_cast<int>(key & 0x7fffffffu); }

HINDSIGHT_DEVICE Key hits_of(const Tile& tile, int row) {
    return static_cast<Key>(tile.hits[row][1]) << 32 | tile.hits[row][0];
}

// Boxes, areas and the bit matrix of the tile. Ends with a barrier.
HINDSIGHT_DEVICE void fill_tile(Tile& tile, const Key* keys, int width, const float* boxes, float threshold) {
    const int thread = threadIdx.x, lane = thread % kWarp;
    if (thread < kTile) {
        const Key key = thread < width ? keys[thread] : kStruck;
        const unsigned struck = __ballot_sync(kAllLanes, (key & kStruck) != 0);
        if (lane == 0) tile.struck[thread / kWarp] = struck;
        if (thread < width) {
            const Box box = load_box(boxes, row_of(key));
            tile.boxes[thread] = box;
            tile.areas[thread] = area(box);
        }
    }
    __syncthreads();
    for (int item = thread / kWarp; item < 2 * width; item += blockDim.x / kWarp) {
        const int row = item / 2, column = (item % 2) * kWarp + lane;
        const bool hit = column < width && column != row &&
            suppresses(tile.boxes[row], tile.areas[row], tile.boxes[column], tile.areas[column], threshold);
        const unsigned hits = __ballot_sync(kAllLanes, hit);
        if (lane == 0) tile.hits[row][item % 2] = hits;
    }
    __syncthreads();
}

// Which boxes of the tile stay: the first not struck stays and strikes, and so on. One thread: 64 steps.
HINDSIGHT_DEVICE Key settle_tile(const Tile& tile, int width) {
    Key struck = static_cast<Key>(tile.struck[1]) << 32 | tile.struck[0];
    Key kept = 0;
#pragma unroll 8
    for (int row = 0; row < width; ++row) {
        const Key bit = 1ull << row;
        const Key hits = hits_of(tile, row);  // does not depend on the walk: loads run ahead of it
        if (!(struck & bit)) {
            kept |= bit;
            struck |= hits;
        }
    }
    return kept;
}

template <bool kGuided>
HINDSIGHT_DEVICE void suppress_list(const NmsParams& params) {
    HINDSIGHT_DYNAMIC_SHARED(raw);
    Tile& tile = *reinterpret_cast<Tile*>(raw);
    Key* shared = reinterpret_cast<Key*>(raw + sizeof(Tile));

    const int thread = threadIdx.x, threads = blockDim.x, count = params.count;
    const long long list = blockIdx.x, group = list / params.classes;
    const float* boxes = params.boxes + 4 * group * count;
    const float* scores = params.scores + list * count;
    unsigned char* keep = params.keep + list * count;
    float* kept_scores = kGuided ? params.kept_scores + list * count : nullptr;
    const float threshold = *params.threshold;  // read here: the host never waits for it

    for (int row = thread; row < count; row += threads) {
        keep[row] = 0;
        if (kGuided) kept_scores[row] = -infinity();
    }

    Key* keys;
    int present;
    if (kGuided) {
        const ByIou rule = {scores, params.ious + group * count};
        keys = place_of_keys(
            rule, count, shared, params.shared_keys, params.spill, params.spill_keys, &tile.counter);
        present = gather_keys(rule, count, keys, &tile.counter);
    } else {
        const ByScore rule = {scores};
        keys = place_of_keys(
            rule, count, shared, params.shared_keys, params.spill, params.spill_keys, &tile.counter);
        present = gather_keys(rule, count, keys, &tile.counter);
    }
    sort_keys(keys, present);
    for (int i = thread; i < present; i += threads) keys[i] &= 0x7fffffffull;  // the rank is the place now
    __syncthreads();

    for (int first = 0; first < present; first += kTile) {
        const int width = smaller(kTile, present - first);
        fill_tile(tile, keys + first, width, boxes, threshold);
        if (thread == 0) tile.kept = settle_tile(tile, width);
        __syncthreads();

        const Key kept = tile.kept;
        const int kept_count = __popcll(kept);
        const Key below = (1ull << (thread % kTile)) - 1;
        if (thread < width && (kept >> thread & 1)) {
            const int rank = __popcll(kept & below), row = row_of(keys[first + thread]);
            tile.kept_boxes[rank] = tile.boxes[thread];
            tile.kept_areas[rank] = tile.areas[thread];
            tile.kept_rows[rank] = row;
            keep[row] = 1;
            if (kGuided) tile.best[rank] = to_ordered(scores[row]);
        }
        __syncthreads();

        // A suppressed box belongs to the best ranked kept box that overlaps it: within the tile ...
        if (kGuided && thread < width && !(kept >> thread & 1) &&
            !(tile.struck[thread / kWarp] >> (thread % kWarp) & 1)) {
            const int keeper = __ffsll(hits_of(tile, thread) & kept & below) - 1;
            const int rank = __popcll(kept & ((1ull << keeper) - 1));
            atomicMax(&tile.best[rank], to_ordered(scores[row_of(keys[first + thread])]));
        }
        // ... and after it, where the first that strikes is the best ranked of all: earlier tiles came first.
        for (int i = first + kTile + thread; i < present; i += threads) {
            const Key key = keys[i];
            if (key & kStruck) continue;
            const Box box = load_box(boxes, row_of(key));
            const float box_area = area(box);
            for (int k = 0; k < kept_count; ++k) {
                if (!suppresses(tile.kept_boxes[k], tile.kept_areas[k], box, box_area, threshold)) continue;
                keys[i] = key | kStruck;
                if (kGuided) atomicMax(&tile.best[k], to_ordered(scores[row_of(key)]));
                break;
            }
        }
        __syncthreads();
        if (kGuided && thread < kept_count) kept_scores[tile.kept_rows[thread]] = from_ordered(tile.best[thread]);
    }
}

}  // namespace hindsight

#endif
