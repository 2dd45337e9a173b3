// What launch.cu asks of CUDA's runtime, declared by us for a machine without it; host_plugins.cpp answers.
#ifndef HINDSIGHT_TEST_CUDA_RUNTIME_API_H
#define HINDSIGHT_TEST_CUDA_RUNTIME_API_H

#include <cstddef>

typedef struct CUstream_st* cudaStream_t;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidDeviceFunction = 98, cudaErrorInvalidResourceHandle = 400 };

struct cudaFuncAttributes {
    int numRegs;
};

struct dim3 {
    unsigned x, y, z;
    explicit dim3(unsigned its_x) : x(its_x), y(1), z(1) {}
};

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function);
cudaError_t cudaLaunchKernel(
    const void* function, dim3 grid, dim3 block, void** arguments, std::size_t shared, cudaStream_t stream
);
const char* cudaGetErrorString(cudaError_t status);

#endif
