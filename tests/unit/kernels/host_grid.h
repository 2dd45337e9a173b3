// A CUDA grid on one CPU thread: the real kernel sources, compiled by g++, run block after block.
//
// Each CUDA thread is a fiber. It runs until a barrier or a warp vote, where it waits for the others, so that
// shared memory, barriers and votes mean what they mean on a GPU. `order` picks who runs first (0: lowest thread
// first, 1: highest, more: warps shuffled by that seed) and a warp runs as far ahead as barriers let it, so that a
// missing barrier shows as wrong results.
// Shared memory is filled with 0xCD before each block: nothing may be read that was not written.
//
// Not shown here: memory ordering between warps, alignment of global loads, launch limits, and speed.
#ifndef HOST_GRID_H
#define HOST_GRID_H

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#define HINDSIGHT_DEVICE inline
#define HINDSIGHT_KERNEL extern "C" void
#define HINDSIGHT_DYNAMIC_SHARED(name) unsigned char* name = host_grid::shared_memory()
#define __launch_bounds__(threads)
#define __grid_constant__

namespace host_grid {

template <class To, class From>
inline To reinterpret(From from) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}

struct Index {
    unsigned x;
};

enum State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fiber {
    ucontext_t start;
    jmp_buf here;
    bool started;
    State state;
    unsigned thread;
    unsigned votes;  // how many warp operations it has taken part in
    std::vector<char> stack;
};

struct Grid {
    std::vector<Fiber> fibers;
    std::vector<unsigned> schedule;
    std::vector<unsigned char> shared;
    std::vector<unsigned> exchange;  // [2][threads]: what lanes hand each other, two operations in turn
    std::vector<char> present;       // likewise: whether the lane takes part
    jmp_buf scheduler;
    ucontext_t main;
    Fiber* current;
    unsigned threads, block;
    void (*body)(const void*);
    const void* params;
};

inline Grid grid;

[[noreturn]] inline void fail(const char* why) {
    std::fprintf(stderr, "host grid, block %u: %s\n", grid.block, why);
    std::abort();
}

inline unsigned char* shared_memory() { return grid.shared.data(); }

inline void wait(State state) {
    Fiber* fiber = grid.current;
    fiber->state = state;
    if (_setjmp(fiber->here) == 0) _longjmp(grid.scheduler, 1);
}

inline void run_fiber() {
    grid.body(grid.params);
    grid.current->state = kDone;
    _longjmp(grid.scheduler, 1);
}

// Runs the fiber until it waits or ends.
inline void resume(Fiber& fiber) {
    grid.current = &fiber;
    if (_setjmp(grid.scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.here, 1);
    fiber.started = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.data();
    fiber.start.uc_stack.ss_size = fiber.stack.size();
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, run_fiber, 0);
    setcontext(&fiber.start);
}

// Lets those go on who all wait at one barrier; false where nobody can.
inline bool release(unsigned first, unsigned last, State barrier) {
    bool any = false;
    for (unsigned i = first; i < last; ++i) {
        if (grid.fibers[i].state != barrier) return false;
        any = true;
    }
    for (unsigned i = first; i < last; ++i) grid.fibers[i].state = kReady;
    return any;
}

inline void run_block() {
    std::fill(grid.shared.begin(), grid.shared.end(), 0xCD);
    for (unsigned i = 0; i < grid.threads; ++i) {
        Fiber& fiber = grid.fibers[i];
        fiber.started = false;
        fiber.state = kReady;
        fiber.thread = i;
        fiber.votes = 0;
    }
    for (;;) {
        unsigned done = 0;
        bool ran = false;
        // A warp runs as far ahead of the others as the barriers let it.
        for (unsigned first = 0; first < grid.threads; first += 32) {
            const unsigned warp = grid.schedule[first] / 32 * 32;
            do {
                for (unsigned i = first; i < first + 32; ++i) {
                    Fiber& fiber = grid.fibers[grid.schedule[i]];
                    if (fiber.state != kReady) continue;
                    resume(fiber);
                    ran = true;
                }
            } while (release(warp, warp + 32, kAtWarpBarrier));
        }
        for (unsigned i = 0; i < grid.threads; ++i) done += grid.fibers[i].state == kDone;
        if (done == grid.threads) return;
        if (!release(0, grid.threads, kAtBlockBarrier) && !ran) fail("some threads wait for others that never come");
    }
}

inline void run(
    void (*body)(const void*), const void* params, unsigned blocks, unsigned threads, unsigned shared, unsigned order
) {
    if (threads % 32 || threads > 1024) fail("bad block size");
    grid.body = body;
    grid.params = params;
    grid.threads = threads;
    grid.shared.resize(shared);
    grid.exchange.resize(2 * threads);
    if (grid.fibers.size() < threads) grid.fibers.resize(threads);
    grid.schedule.resize(threads);
    std::vector<unsigned> warps(threads / 32);
    std::iota(warps.begin(), warps.end(), 0u);
    if (order > 1) std::shuffle(warps.begin(), warps.end(), std::mt19937(order));
    for (unsigned i = 0; i < threads; ++i) {
        grid.schedule[i] = order == 1 ? threads - 1 - i : 32 * warps[i / 32] + i % 32;
        if (grid.fibers[i].stack.empty()) grid.fibers[i].stack.resize(1 << 16);
    }
    for (grid.block = 0; grid.block < blocks; ++grid.block) run_block();
}

// Every lane hands in a value and gets the 32 of its warp.
inline const unsigned* trade(unsigned mask, unsigned value) {
    if (mask != 0xffffffffu) fail("a warp operation without all lanes");
    Fiber* fiber = grid.current;
    unsigned* slots = grid.exchange.data() + (fiber->votes++ % 2) * grid.threads;
    slots[fiber->thread] = value;
    wait(kAtWarpBarrier);
    return slots + fiber->thread / 32 * 32;
}

inline Index thread_index() { return {grid.current->thread}; }

}  // namespace host_grid

#define threadIdx (host_grid::thread_index())
#define blockIdx (host_grid::Index{host_grid::grid.block})
#define blockDim (host_grid::Index{host_grid::grid.threads})

inline void __syncthreads() { host_grid::wait(host_grid::kAtBlockBarrier); }

inline unsigned __ballot_sync(unsigned mask, bool vote) {
    const unsigned* votes = host_grid::trade(mask, vote);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; ++lane) bits |= votes[lane] << lane;
    return bits;
}

template <class T>
inline T __shfl_sync(unsigned mask, T value, unsigned lane) {
    return static_cast<T>(host_grid::trade(mask, static_cast<unsigned>(value))[lane]);
}

inline unsigned __shfl_xor_sync(unsigned mask, unsigned value, unsigned distance) {
    const unsigned lane = host_grid::thread_index().x % 32;
    return host_grid::trade(mask, value)[lane ^ distance];
}

template <class T>
inline T atomicAdd(T* address, T value) {
    const T before = *address;
    *address = before + value;
    return before;
}

template <class T>
inline T atomicMax(T* address, T value) {
    const T before = *address;
    *address = std::max(before, value);
    return before;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }

#endif
