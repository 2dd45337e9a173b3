// A libcuda.so.1 without a GPU, for the TensorRT runtime: memory is the host's, and a stream does nothing until
// somebody waits for it. So a result read too early, or a buffer written over too early, gives wrong answers here
// as it would on a GPU. Counts what is alive, and fails on demand.
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

typedef int CUresult;
typedef unsigned long long Address;
enum { kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kInvalidContext = 201, kNotFound = 500, kNoCapture = 901 };

struct Event {
    long recorded = 0, happened = 0;
    struct Stream* stream = nullptr;
};
struct Stream {
    std::deque<std::function<void()>> work;
    bool capturing = false;
    std::vector<std::function<void()>> captured;
};
struct Graph {
    std::vector<std::function<void()>> work;
};

static thread_local void* current_context = nullptr;
static int primary_context;
static std::map<std::string, long> alive;
static long long memory_limit = -1, memory_used = 0;
static bool refuse_captures = false;
static CUresult broken = kSuccess;  // what every call that needs a context answers
static std::map<Address, long long> sizes;

#define NEEDS_CONTEXT                                  \
    if (current_context != &primary_context) {         \
        return kInvalidContext;                        \
    }                                                  \
    if (broken != kSuccess) return broken;

static void run_until(Stream* stream, const std::function<bool()>& done) {
    while (!done() && !stream->work.empty()) {
        auto next = stream->work.front();
        stream->work.pop_front();
        next();
    }
}

static void happen(Event* event, long version) {
    if (event->stream) run_until(event->stream, [=] { return event->happened >= version; });
}

static void enqueue(Stream* stream, std::function<void()> work) {
    if (stream->capturing) stream->captured.push_back(work);
    else stream->work.push_back(work);
}

extern "C" {

// for the tests
void fake_enqueue(Stream* stream, void (*function)(long), long argument) {
    enqueue(stream, [=] { function(argument); });
}
int fake_is_capturing(Stream* stream) { return stream->capturing; }
long fake_alive(const char* kind) { return alive[kind]; }
long long fake_memory() { return memory_used; }
void fake_limit_memory(long long bytes) { memory_limit = bytes; }
void fake_refuse_captures(int refuse) { refuse_captures = refuse; }
void fake_break(CUresult status) { broken = status; }

CUresult cuInit(unsigned) { return kSuccess; }
CUresult cuDriverGetVersion(int* version) { return *version = 13020, kSuccess; }
CUresult cuDeviceGet(int* device, int ordinal) { return ordinal == 0 ? (*device = 0, kSuccess) : 101; }
CUresult cuDeviceGetName(char* name, int length, int) {
    std::strncpy(name, "NVIDIA Pretender 9000", length);
    return kSuccess;
}
CUresult cuDeviceGetAttribute(int* value, int attribute, int) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1;  // compute capability 8.9
    return *value < 0 ? kInvalidValue : kSuccess;
}
CUresult cuDevicePrimaryCtxRetain(void** context, int) { return ++alive["context"], *context = &primary_context, kSuccess; }
CUresult cuDevicePrimaryCtxRelease(int) { return --alive["context"], broken; }
CUresult cuCtxGetCurrent(void** context) { return *context = current_context, kSuccess; }
CUresult cuCtxSetCurrent(void* context) { return current_context = context, kSuccess; }

CUresult cuMemAlloc(Address* address, size_t size) {
    NEEDS_CONTEXT
    if (memory_limit >= 0 && memory_used + (long long)size > memory_limit) return kOutOfMemory;
    *address = reinterpret_cast<Address>(std::aligned_alloc(256, (size + 255) / 256 * 256));
    std::memset(reinterpret_cast<void*>(*address), 0xA5, size);
    sizes[*address] = size;
    memory_used += size;
    return ++alive["memory"], kSuccess;
}
CUresult cuMemFree(Address address) {
    NEEDS_CONTEXT
    if (!sizes.count(address)) return kInvalidValue;
    memory_used -= sizes[address];
    sizes.erase(address);
    std::free(reinterpret_cast<void*>(address));
    return --alive["memory"], kSuccess;
}
CUresult cuMemHostAlloc(void** memory, size_t size, unsigned) {
    NEEDS_CONTEXT
    *memory = std::aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    return ++alive["pinned"], kSuccess;
}
CUresult cuMemFreeHost(void* memory) {
    NEEDS_CONTEXT
    std::free(memory);
    return --alive["pinned"], kSuccess;
}
CUresult cuStreamCreate(Stream** stream, unsigned flags) {
    NEEDS_CONTEXT
    if (flags != 1) return kInvalidValue;  // not the kind that waits for the default stream
    return *stream = new Stream, ++alive["stream"], kSuccess;
}
CUresult cuStreamDestroy(Stream* stream) {
    NEEDS_CONTEXT
    return delete stream, --alive["stream"], kSuccess;
}
CUresult cuStreamSynchronize(Stream* stream) {
    NEEDS_CONTEXT
    run_until(stream, [] { return false; });
    return kSuccess;
}
CUresult cuEventCreate(Event** event, unsigned) {
    NEEDS_CONTEXT
    return *event = new Event, ++alive["event"], kSuccess;
}
CUresult cuEventDestroy(Event* event) {
    NEEDS_CONTEXT
    return delete event, --alive["event"], kSuccess;
}
CUresult cuEventRecord(Event* event, Stream* stream) {
    NEEDS_CONTEXT
    const long version = ++event->recorded;
    event->stream = stream;
    enqueue(stream, [=] { event->happened = version; });
    return kSuccess;
}
CUresult cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    NEEDS_CONTEXT
    const long version = event->recorded;
    enqueue(stream, [=] { happen(event, version); });
    return kSuccess;
}
CUresult cuEventSynchronize(Event* event) {
    NEEDS_CONTEXT
    return happen(event, event->recorded), kSuccess;
}
CUresult cuMemcpyHtoDAsync(Address target, const void* source, size_t size, Stream* stream) {
    NEEDS_CONTEXT
    if (!sizes.count(target) || sizes[target] < (long long)size) return kInvalidValue;
    enqueue(stream, [=] { std::memcpy(reinterpret_cast<void*>(target), source, size); });
    return kSuccess;
}
CUresult cuMemcpyDtoHAsync(void* target, Address source, size_t size, Stream* stream) {
    NEEDS_CONTEXT
    if (!sizes.count(source) || sizes[source] < (long long)size) return kInvalidValue;
    enqueue(stream, [=] { std::memcpy(target, reinterpret_cast<void*>(source), size); });
    return kSuccess;
}
CUresult cuMemcpyDtoDAsync(Address target, Address source, size_t size, Stream* stream) {
    NEEDS_CONTEXT
    if (sizes[target] < (long long)size || sizes[source] < (long long)size) return kInvalidValue;
    enqueue(stream, [=] { std::memcpy(reinterpret_cast<void*>(target), reinterpret_cast<void*>(source), size); });
    return kSuccess;
}
CUresult cuStreamBeginCapture(Stream* stream, int mode) {
    NEEDS_CONTEXT
    if (stream->capturing || mode != 1) return kInvalidValue;  // 1: this thread's calls alone
    return stream->capturing = true, stream->captured.clear(), kSuccess;
}
CUresult cuStreamEndCapture(Stream* stream, Graph** graph) {
    NEEDS_CONTEXT
    stream->capturing = false;
    if (refuse_captures) return *graph = nullptr, kNoCapture;
    return *graph = new Graph{stream->captured}, ++alive["graph"], kSuccess;
}
CUresult cuGraphInstantiate(Graph** launchable, Graph* graph, unsigned long long) {
    NEEDS_CONTEXT
    return *launchable = new Graph{*graph}, ++alive["launchable"], kSuccess;
}
CUresult cuGraphDestroy(Graph* graph) { return delete graph, --alive["graph"], kSuccess; }
CUresult cuGraphExecDestroy(Graph* graph) {
    NEEDS_CONTEXT
    return delete graph, --alive["launchable"], kSuccess;
}
CUresult cuGraphLaunch(Graph* graph, Stream* stream) {
    NEEDS_CONTEXT
    for (const auto& work : graph->work) enqueue(stream, work);
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
    HAVE(cuDeviceGetName);
    HAVE(cuDeviceGetAttribute);
    HAVE(cuDevicePrimaryCtxRetain);
    HAVE(cuDevicePrimaryCtxRelease);
    HAVE(cuCtxGetCurrent);
    HAVE(cuCtxSetCurrent);
    HAVE(cuMemAlloc);
    HAVE(cuMemFree);
    HAVE(cuMemHostAlloc);
    HAVE(cuMemFreeHost);
    HAVE(cuStreamCreate);
    HAVE(cuStreamDestroy);
    HAVE(cuStreamSynchronize);
    HAVE(cuEventCreate);
    HAVE(cuEventDestroy);
    HAVE(cuEventRecord);
    HAVE(cuStreamWaitEvent);
    HAVE(cuEventSynchronize);
    HAVE(cuMemcpyHtoDAsync);
    HAVE(cuMemcpyDtoHAsync);
    HAVE(cuMemcpyDtoDAsync);
    HAVE(cuStreamBeginCapture);
    HAVE(cuStreamEndCapture);
    HAVE(cuGraphInstantiate);
    HAVE(cuGraphDestroy);
    HAVE(cuGraphExecDestroy);
    HAVE(cuGraphLaunch);
    HAVE(cuGetErrorName);
    HAVE(cuGetErrorString);
    HAVE(cuGetProcAddress_v2);
    if (wanted == "cuGraphInstantiateWithFlags") *address = reinterpret_cast<void*>(cuGraphInstantiate);
    if (wanted == "cuGetProcAddress") *address = reinterpret_cast<void*>(cuGetProcAddress_v2);
    if (found) *found = *address ? 0 : 1;
    return *address ? kSuccess : kNotFound;
}

CUresult cuGetProcAddress(const char* name, void** address, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(name, address, version, flags, nullptr);
}
}
