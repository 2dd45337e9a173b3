// What the kernels need of the machine they are compiled for, and nothing else: no CUDA or torch header, so
// that NVRTC compiles them without an include path, nvcc puts them into a plugin, and g++ runs them in tests
// (host_grid.h, beside the tests, plays the grid).
//
// Exactness: every source is compiled without fused multiply-add (fmad=false / -ffp-contract=off); where a
// fused one is wanted, fmaf says so. Division and square root are IEEE's. A comparison with a threshold thus
// falls the same way on every GPU, in the g++ build and in torch.
#ifndef HINDSIGHT_PLATFORM_H
#define HINDSIGHT_PLATFORM_H

#if defined(__CUDACC__)
#define HINDSIGHT_DEVICE __device__ __forceinline__
#define HINDSIGHT_KERNEL extern "C" __global__ void
#define HINDSIGHT_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#else
#include "host_grid.h"
#endif

namespace hindsight {

typedef unsigned long long Key;

const unsigned kAllLanes = 0xffffffffu;
const int kWarp = 32;

HINDSIGHT_DEVICE float from_bits(unsigned bits) {
#if defined(__CUDACC__)
    return __uint_as_float(bits);
#else
    return host_grid::reinterpret<float>(bits);
#endif
}

HINDSIGHT_DEVICE unsigned to_bits(float value) {
#if defined(__CUDACC__)
    return __float_as_uint(value);
#else
    return host_grid::reinterpret<unsigned>(value);
#endif
}

HINDSIGHT_DEVICE float infinity() { return from_bits(0x7f800000u); }

HINDSIGHT_DEVICE int smaller(int a, int b) { return a < b ? a : b; }

// 16 bytes: the widest load of one thread. Through the read-only path: no kernel writes what it reads here.
struct alignas(16) Words {
    unsigned word[4];
};

HINDSIGHT_DEVICE Words load_words(const void* address) {
#if defined(__CUDACC__)
    const uint4 read = __ldg(static_cast<const uint4*>(address));
    return {{read.x, read.y, read.z, read.w}};
#else
    return *static_cast<const Words*>(address);
#endif
}

HINDSIGHT_DEVICE void copy_words(void* to, const void* from) {
#if defined(__CUDACC__)
    *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
#else
    *static_cast<Words*>(to) = *static_cast<const Words*>(from);
#endif
}

// How features lie in memory. All arithmetic is float32: `widen` reads, `narrow` rounds to nearest even.
struct Float32 {
    typedef float Stored;
    enum { kPerVector = 4 };
    static HINDSIGHT_DEVICE float widen(Stored value) { return value; }
    static HINDSIGHT_DEVICE Stored narrow(float value) { return value; }
    static HINDSIGHT_DEVICE void widen(const Words& words, float (&values)[kPerVector]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) values[i] = from_bits(words.word[i]);
    }
};

struct Float16 {
    typedef unsigned short Stored;
    enum { kPerVector = 8 };
    static HINDSIGHT_DEVICE float widen(Stored value) {
#if defined(__CUDACC__)
        float wide;
        asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value));
        return wide;
#else
        return static_cast<float>(host_grid::reinterpret<_Float16>(value));
#endif
    }
    static HINDSIGHT_DEVICE Stored narrow(float value) {
#if defined(__CUDACC__)
        Stored narrowed;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrowed) : "f"(value));
        return narrowed;
#else
        return host_grid::reinterpret<Stored>(static_cast<_Float16>(value));
#endif
    }
    static HINDSIGHT_DEVICE void widen(const Words& words, float (&values)[kPerVector]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            values[2 * i] = widen(static_cast<Stored>(words.word[i] & 0xffffu));
            values[2 * i + 1] = widen(static_cast<Stored>(words.word[i] >> 16));
        }
    }
};

// The upper half of a float32, so widening is a shift. Rounded by hand: sm_75 has no instruction for it.
struct BFloat16 {
    typedef unsigned short Stored;
    enum { kPerVector = 8 };
    static HINDSIGHT_DEVICE float widen(Stored value) { return from_bits(static_cast<unsigned>(value) << 16); }
    static HINDSIGHT_DEVICE Stored narrow(float value) {
        const unsigned bits = to_bits(value);
        if (value != value) return static_cast<Stored>((bits >> 16) | 0x40u);  // rounding could make NaN infinite
        return static_cast<Stored>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
    static HINDSIGHT_DEVICE void widen(const Words& words, float (&values)[kPerVector]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            values[2 * i] = from_bits(words.word[i] << 16);
            values[2 * i + 1] = from_bits(words.word[i] & 0xffff0000u);
        }
    }
};

}  // namespace hindsight

#endif
