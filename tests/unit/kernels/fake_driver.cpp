// A libcuda.so.1 without a GPU: enough of the driver for cuda.bindings to load a module and launch a kernel, which
// then runs on host_grid.h. It checks what a driver would: that a context is current, that the module is machine
// code or PTX, that a kernel of that name is in it.
#include "host_library.cpp"

#include <string>

typedef int CUresult;
enum { kSuccess = 0, kInvalidValue = 1, kInvalidContext = 201, kInvalidImage = 200, kNotFound = 500 };

static void* current_context = nullptr;
static int primary_context;
static std::string module_image;

extern "C" {

CUresult cuInit(unsigned) { return kSuccess; }
CUresult cuDriverGetVersion(int* version) { return *version = 13020, kSuccess; }
CUresult cuDeviceGet(int* device, int ordinal) { return ordinal == 0 ? (*device = 0, kSuccess) : kInvalidValue; }
CUresult cuDeviceGetAttribute(int* value, int attribute, int) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : -1;  // compute capability 9.0
    return *value < 0 ? kInvalidValue : kSuccess;
}
CUresult cuDevicePrimaryCtxRetain(void** context, int) { return *context = &primary_context, kSuccess; }
CUresult cuCtxGetCurrent(void** context) { return *context = current_context, kSuccess; }
CUresult cuCtxSetCurrent(void* context) { return current_context = context, kSuccess; }

CUresult cuModuleLoadData(void** module, const void* image) {
    if (current_context != &primary_context) return kInvalidContext;
    const char* bytes = static_cast<const char*>(image);
    if (std::memcmp(bytes, "\x7f" "ELF", 4) != 0) return kInvalidImage;
    // as far as the last section header: where the names of the kernels are
    unsigned long long sections;
    unsigned short size, count;
    std::memcpy(&sections, bytes + 40, 8);
    std::memcpy(&size, bytes + 58, 2);
    std::memcpy(&count, bytes + 60, 2);
    module_image.assign(bytes, sections + size * count);
    *module = &module_image;
    return kSuccess;
}

CUresult cuModuleGetFunction(void** function, void* module, const char* name) {
    const std::string section = std::string(".text.") + name + '\0';
    if (static_cast<std::string*>(module)->find(section) == std::string::npos) return kNotFound;
    *function = new std::string(name);
    return kSuccess;
}

CUresult cuCtxGetDevice(int* device) { return current_context ? (*device = 0, kSuccess) : kInvalidContext; }
CUresult cuFuncLoad(void* function) {
    if (current_context != &primary_context) return kInvalidContext;
    return static_cast<std::string*>(function)->empty() ? kNotFound : kSuccess;
}

CUresult cuLaunchKernel(
    void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
    unsigned block_z, unsigned shared, void* stream, void** params, void** extra
) {
    if (current_context != &primary_context) return kInvalidContext;
    if (grid_y * grid_z * block_y * block_z != 1 || extra || stream != reinterpret_cast<void*>(0x5u)) return kInvalidValue;
    const std::string& name = *static_cast<std::string*>(function);
    if (name == "batched_nms") run_batched_nms(static_cast<NmsParams*>(params[0]), grid_x, block_x, shared, 0);
    else if (name == "roi_align_vector_f16_f16")
        run_roi_align_vector_f16_f16(static_cast<RoiAlignParams*>(params[0]), grid_x, block_x, shared, 0);
    else return kNotFound;
    return kSuccess;
}

CUresult cuGetErrorName(CUresult, const char** name) { return *name = "an error", kSuccess; }
CUresult cuGetErrorString(CUresult, const char** text) { return *text = "an error", kSuccess; }

#define HAVE(call) \
    if (wanted == #call) *address = reinterpret_cast<void*>(call)

CUresult cuGetProcAddress_v2(const char* name, void** address, int, unsigned long long, int* found) {
    const std::string wanted = name;
    *address = nullptr;
    HAVE(cuInit);
    HAVE(cuDriverGetVersion);
    HAVE(cuDeviceGet);
    HAVE(cuDeviceGetAttribute);
    HAVE(cuDevicePrimaryCtxRetain);
    HAVE(cuCtxGetCurrent);
    HAVE(cuCtxSetCurrent);
    HAVE(cuCtxGetDevice);
    HAVE(cuFuncLoad);
    HAVE(cuModuleLoadData);
    HAVE(cuModuleGetFunction);
    HAVE(cuLaunchKernel);
    HAVE(cuGetErrorName);
    HAVE(cuGetErrorString);
    HAVE(cuGetProcAddress_v2);
    if (wanted == "cuGetProcAddress") *address = reinterpret_cast<void*>(cuGetProcAddress_v2);
    if (found) *found = *address ? 0 : 1;
    return *address ? kSuccess : kNotFound;
}

CUresult cuGetProcAddress(const char* name, void** address, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(name, address, version, flags, nullptr);
}
}
