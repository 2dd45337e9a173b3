// The kernels of model/kernels by name, and how they get onto a GPU. launch.cu is the real one; tests put the
// host grid in its place. No CUDA header, so that both compile with a plain C++ compiler.
#ifndef HINDSIGHT_LAUNCH_H
#define HINDSIGHT_LAUNCH_H

#include "geometry.h"

namespace hindsight_trt {

// What launches a kernel; null for a name that there is none of.
const void* find_kernel(const char* name);

// Loads every kernel of a source ("roi_align") into the current GPU, which no CUDA graph capture may contain.
// Returns what went wrong, or null.
const char* load_kernels(const char* source);

// Enqueues one kernel, its parameters copied, and returns at once: what went wrong, or null.
const char* launch(const void* kernel, const void* params, const HindsightLaunch& shape, void* stream);

}  // namespace hindsight_trt

#endif
