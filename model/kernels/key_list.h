// The list that one thread block works on: a 64-bit key for each present candidate of one (group, class).
//
// One block per list, because lists are independent and there are hundreds of them (8 images x 80 classes), or
// tens of long ones (8 images x 5 levels): no list waits for another and the host waits for none. Absent rows
// (-inf: below the score threshold) never become keys: a detector's class has dozens of candidates left of a
// thousand, and everything after this step costs by the number left.
//
// Keys lie in shared memory while they fit, else in the list's part of the workspace; either way only this
// block touches them, so that __syncthreads orders all.
#ifndef HINDSIGHT_KEY_LIST_H
#define HINDSIGHT_KEY_LIST_H

#include "box_math.h"

namespace hindsight {

// How many rows are present, in every thread. `counter` is in shared memory. `Rule` has present(row).
template <class Rule>
HINDSIGHT_DEVICE int count_present(const Rule& rule, int count, int* counter) {
    if (threadIdx.x == 0) *counter = 0;
    __syncthreads();
    for (int first = 0; first < count; first += blockDim.x) {
        const int row = first + threadIdx.x;
        const unsigned votes = __ballot_sync(kAllLanes, row < count && rule.present(row));
        if (threadIdx.x % kWarp == 0 && votes) atomicAdd(counter, __popc(votes));
    }
    __syncthreads();
    const int present = *counter;
    __syncthreads();
    return present;
}

// Writes the key of each present row, in any order; returns how many. One atomic per warp, not per row.
template <class Rule>
HINDSIGHT_DEVICE int gather_keys(const Rule& rule, int count, Key* keys, int* counter) {
    if (threadIdx.x == 0) *counter = 0;
    __syncthreads();
    const int lane = threadIdx.x % kWarp;
    for (int first = 0; first < count; first += blockDim.x) {
        const int row = first + threadIdx.x;
        const bool here = row < count && rule.present(row);
        const unsigned votes = __ballot_sync(kAllLanes, here);
        if (votes == 0) continue;
        int place = 0;
        if (lane == 0) place = atomicAdd(counter, __popc(votes));
        place = __shfl_sync(kAllLanes, place, 0);
        if (here) keys[place + __popc(votes & ((1u << lane) - 1u))] = rule.key(row);
    }
    __syncthreads();
    return *counter;
}

// Where the keys go: counts first only where they may not fit.
template <class Rule>
HINDSIGHT_DEVICE Key* place_of_keys(
    const Rule& rule, int count, Key* shared, int shared_keys, Key* spill, int spill_keys, int* counter
) {
    if (count <= shared_keys || count_present(rule, count, counter) <= shared_keys) return shared;
    return spill + static_cast<long long>(blockIdx.x) * spill_keys;
}

// Ascending, by bitonic merges; room for the next power of two is needed. Each key holds its row, so no two
// are equal and the order does not depend on how the rows were gathered.
HINDSIGHT_DEVICE void sort_keys(Key* keys, int count) {
    int size = 1;
    while (size < count) size <<= 1;
    for (int i = count + threadIdx.x; i < size; i += blockDim.x) keys[i] = ~0ull;
    __syncthreads();
    for (int run = 2; run <= size; run <<= 1) {
        for (int distance = run >> 1; distance > 0; distance >>= 1) {
            for (int pair = threadIdx.x; pair < size / 2; pair += blockDim.x) {
                const int low = ((pair & ~(distance - 1)) << 1) | (pair & (distance - 1));
                const Key a = keys[low], b = keys[low + distance];
                const bool ascending = (low & run) == 0;
                if ((a > b) == ascending) {
                    keys[low] = b;
                    keys[low + distance] = a;
                }
            }
            __syncthreads();
        }
    }
}

}  // namespace hindsight

#endif
