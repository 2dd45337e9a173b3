// MultilevelRoiAlign: every box pooled from the one pyramid level that suits its size (model/ops/roi_align.py).
//
// One launch for all levels and images, where the usual form launches per level, picks rows out (a host
// synchronisation each) and puts the results back in order. A block takes one box and a slice of the channels:
// the level and the 2 * s * samples taps are worked out once a block, not once an output value.
//
// What bounds it is memory: at 8 x 1000 boxes of 7 x 7 x 256 the output alone is 401 MB in float32 (200 MB in a
// 16-bit type: hence the variants that write one). So:
// - channels-last maps (`vector` kernels): a thread holds 16 bytes of neighbouring channels, 8 lanes (16 in
//   float32) read 64 channels of a pixel as whole 128-byte lines. The output is [C, s, s], so results are staged in
//   shared memory and leave as one contiguous run of 16-byte stores.
// - any other layout (`strided` kernels, by element strides): neighbouring threads take neighbouring bins of one
//   channel, which are neighbours in the map's rows, and write neighbouring values.
// - blocks are ordered image, channel slice, box: blocks that run together read one slice of one image's
//   pyramid (11 MB of 45 MB in 16 bits at 800 x 1344), which a second-level cache holds.
//
// Grid: images * slices * boxes blocks of 224 (vector; 28 bins x 8 lanes: 7 x 7 in two rounds, 14 x 14 in
// seven) or 256 threads. Shared memory and slice: geometry.h.
#include "roi_math.h"

namespace hindsight {

const int kTaps = 128;  // per axis, in shared memory; a box with more has them worked out where they are used

struct alignas(16) RoiShared {
    Tap y[kTaps];
    Tap x[kTaps];
};
static_assert(sizeof(RoiShared) == HINDSIGHT_ROI_SHARED, "geometry.h reserves another size");

struct Task {
    long long box;
    int image, level, first_channel, channels;
    Axis y, x;
    bool tabled;
    float samples;  // of a bin
};

HINDSIGHT_DEVICE Task make_task(const RoiAlignParams& params) {
    const int slices = (params.channels + params.channels_per_block - 1) / params.channels_per_block;
    const long long slice_of_image = blockIdx.x / params.rois_per_image;
    Task task;
    task.image = static_cast<int>(slice_of_image / slices);
    task.first_channel = static_cast<int>(slice_of_image % slices) * params.channels_per_block;
    task.channels = smaller(params.channels_per_block, params.channels - task.first_channel);
    task.box = static_cast<long long>(task.image) * params.rois_per_image + blockIdx.x % params.rois_per_image;
    const Box box = load_box(params.rois, task.box);
    const int level = level_of(box, params);
    task.level = level;
    const float scale = params.scales[level];
    task.y = make_axis(box.y1, box.y2, scale, params.heights[level], params.row_strides[level], params);
    task.x = make_axis(box.x1, box.x2, scale, params.widths[level], params.column_strides[level], params);
    const int most = kTaps / params.output_size;
    task.tabled = task.y.samples <= most && task.x.samples <= most;
    const float samples = static_cast<float>(task.y.samples) * static_cast<float>(task.x.samples);
    task.samples = samples > 1.0f ? samples : 1.0f;
    return task;
}

// Ends with a barrier.
HINDSIGHT_DEVICE void fill_taps(const Task& task, int output_size, RoiShared& taps) {
    if (task.tabled) {
        const int rows = output_size * task.y.samples, columns = output_size * task.x.samples;
        for (int i = threadIdx.x; i < rows; i += blockDim.x) {
            taps.y[i] = tap(task.y, i / task.y.samples, i % task.y.samples);
        }
        for (int i = threadIdx.x; i < columns; i += blockDim.x) {
            taps.x[i] = tap(task.x, i / task.x.samples, i % task.x.samples);
        }
    }
    __syncthreads();
}

// Adds the four pixels around a sample, weighted, to the sums of this thread's channels.
template <class Storage>
struct VectorReader {
    enum { kSums = Storage::kPerVector };
    const typename Storage::Stored* pixels;  // of this thread's first channel
    HINDSIGHT_DEVICE void add(int offset, float weight, float (&sums)[kSums]) const {
        float values[kSums];
        Storage::widen(load_words(pixels + offset), values);
#pragma unroll
        for (int i = 0; i < kSums; ++i) sums[i] = fmaf(weight, values[i], sums[i]);
    }
};

template <class Storage>
struct ScalarReader {
    enum { kSums = 1 };
    const typename Storage::Stored* pixels;  // of this thread's channel
    HINDSIGHT_DEVICE void add(int offset, float weight, float (&sums)[1]) const {
        sums[0] = fmaf(weight, Storage::widen(pixels[offset]), sums[0]);
    }
};

template <class Reader>
HINDSIGHT_DEVICE void add_sample(const Reader& reader, const Tap& y, const Tap& x, float (&sums)[Reader::kSums]) {
    // outside: zero, whatever the map holds elsewhere; no weight of zero may meet an infinite pixel
    if (y.low < 0 || x.low < 0) return;
    reader.add(y.low + x.low, y.low_weight * x.low_weight, sums);
    reader.add(y.low + x.high, y.low_weight * x.high_weight, sums);
    reader.add(y.high + x.low, y.high_weight * x.low_weight, sums);
    reader.add(y.high + x.high, y.high_weight * x.high_weight, sums);
}

// kSamples > 0: that many samples an axis, known when compiled, so that all loads of a bin are under way at once.
template <int kSamples, class Reader>
HINDSIGHT_DEVICE void add_tabled(
    const Reader& reader, const Task& task, const RoiShared& taps, int row, int column,
    float (&sums)[Reader::kSums]
) {
    const int rows = kSamples > 0 ? kSamples : task.y.samples, columns = kSamples > 0 ? kSamples : task.x.samples;
#pragma unroll
    for (int i = 0; i < rows; ++i) {
        const Tap y = taps.y[row * rows + i];
#pragma unroll
        for (int j = 0; j < columns; ++j) add_sample(reader, y, taps.x[column * columns + j], sums);
    }
}

// The mean of one bin.
template <class Reader>
HINDSIGHT_DEVICE void pool_bin(
    const Reader& reader, const Task& task, const RoiShared& taps, int row, int column,
    float (&sums)[Reader::kSums]
) {
#pragma unroll
    for (int i = 0; i < Reader::kSums; ++i) sums[i] = 0.0f;
    if (!task.tabled) {
        const Span rows = span_on_map(task.y, row), columns = span_on_map(task.x, column);
        for (int i = rows.first; i < rows.last; ++i) {
            const Tap y = tap(task.y, row, i);
            if (y.low < 0) continue;
            for (int j = columns.first; j < columns.last; ++j) {
                add_sample(reader, y, tap(task.x, column, j), sums);
            }
        }
    } else if (task.y.samples == 2 && task.x.samples == 2) {
        add_tabled<2>(reader, task, taps, row, column, sums);
    } else {
        add_tabled<0>(reader, task, taps, row, column, sums);
    }
#pragma unroll
    for (int i = 0; i < Reader::kSums; ++i) sums[i] /= task.samples;
}

// Channels-last maps whose channels, strides and addresses are multiples of 16 bytes.
template <class In, class Out>
HINDSIGHT_DEVICE void pool_vectors(const RoiAlignParams& params) {
    typedef typename In::Stored Pixel;
    typedef typename Out::Stored Result;
    enum { kVector = In::kPerVector };
    HINDSIGHT_DYNAMIC_SHARED(raw);
    RoiShared& taps = *reinterpret_cast<RoiShared*>(raw);
    Result* staged = reinterpret_cast<Result*>(raw + sizeof(RoiShared));  // [channels_per_block, s, s]

    const Task task = make_task(params);
    fill_taps(task, params.output_size, taps);

    const int thread = threadIdx.x, side = params.output_size, bins = side * side;
    const int lanes = params.channels_per_block / kVector;  // threads that share a bin
    const int lane = thread % lanes, at_once = blockDim.x / lanes;
    const int channel = lane * kVector;
    if (channel < task.channels && thread < at_once * lanes) {
        const Pixel* map = static_cast<const Pixel*>(params.features[task.level]) +
            task.image * params.image_strides[task.level] + task.first_channel + channel;
        const VectorReader<In> reader = {map};
        for (int bin = thread / lanes; bin < bins; bin += at_once) {
            float means[kVector];
            pool_bin(reader, task, taps, bin / side, bin % side, means);
#pragma unroll
            for (int i = 0; i < kVector; ++i) staged[(channel + i) * bins + bin] = Out::narrow(means[i]);
        }
    }
    __syncthreads();

    const int per_words = sizeof(Words) / sizeof(Result), results = task.channels * bins;
    Result* output = static_cast<Result*>(params.output) + (task.box * params.channels + task.first_channel) * bins;
    for (int i = thread * per_words; i < results; i += blockDim.x * per_words) copy_words(output + i, staged + i);
}

// Maps of any layout.
template <class In, class Out>
HINDSIGHT_DEVICE void pool_scalars(const RoiAlignParams& params) {
    typedef typename In::Stored Pixel;
    typedef typename Out::Stored Result;
    HINDSIGHT_DYNAMIC_SHARED(raw);
    RoiShared& taps = *reinterpret_cast<RoiShared*>(raw);

    const Task task = make_task(params);
    fill_taps(task, params.output_size, taps);

    const int side = params.output_size, bins = side * side, results = task.channels * bins;
    const long long channel_stride = params.channel_strides[task.level];
    const Pixel* map = static_cast<const Pixel*>(params.features[task.level]) +
        task.image * params.image_strides[task.level] + task.first_channel * channel_stride;
    Result* output = static_cast<Result*>(params.output) + (task.box * params.channels + task.first_channel) * bins;
    for (int i = threadIdx.x; i < results; i += blockDim.x) {
        const int bin = i % bins;
        const ScalarReader<In> reader = {map + (i / bins) * channel_stride};
        float mean[1];
        pool_bin(reader, task, taps, bin / side, bin % side, mean);
        output[i] = Out::narrow(mean[0]);
    }
}

}  // namespace hindsight

#define HINDSIGHT_ROI_ALIGN(names, In, Out)                                                                        \
    HINDSIGHT_KERNEL __launch_bounds__(224) roi_align_vector_##names(const __grid_constant__ RoiAlignParams params) { \
        hindsight::pool_vectors<hindsight::In, hindsight::Out>(params);                                            \
    }                                                                                                              \
    HINDSIGHT_KERNEL __launch_bounds__(256) roi_align_strided_##names(const __grid_constant__ RoiAlignParams params) { \
        hindsight::pool_scalars<hindsight::In, hindsight::Out>(params);                                            \
    }

// features_output
HINDSIGHT_ROI_ALIGN(f32_f32, Float32, Float32)
HINDSIGHT_ROI_ALIGN(f16_f32, Float16, Float32)
HINDSIGHT_ROI_ALIGN(f16_f16, Float16, Float16)
HINDSIGHT_ROI_ALIGN(bf16_f32, BFloat16, Float32)
HINDSIGHT_ROI_ALIGN(bf16_bf16, BFloat16, BFloat16)
