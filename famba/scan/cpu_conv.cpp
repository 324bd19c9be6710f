// SiLU of the depthwise causal convolution for CPUs, both directions in one call. See cpu.py for the interface.
//
//     pre_t = bias + Σ_w weight_w x_{t-(W-1)+w}   (in reversed time x_{t+(W-1)-w}),   out_t = SiLU(pre_t)
//
// The pass goes row by row; all rows that one output needs are in the L1 cache. Backward, pre_t is formed again, and a
// ring of rows holds ∂loss/∂pre until every step that saw x_t has passed.

#include <algorithm>
#include <vector>

#include "simd.h"

using namespace simd;

struct ConvArgs {
    int64_t directions, batch, length, dim, width;
    int64_t bf16, threads;
    Stream x, out;               // forward: `out` is written; backward: it is the gradient that arrives
    const float *weight, *bias;  // (K, D, W), (K, D)
    float* partial;              // backward: see conv_sizes
    Stream dx;
    float *dweight, *dbias;
};

namespace {

// Rows are read and written whole, so a group should be a long piece of a row: 8 blocks are 512 bytes in AVX-512.
Tasks cut(const ConvArgs& s) { return Tasks(s.batch, s.dim, 8); }

// The channels of one group of blocks, with their weights as vectors. WIDTH is the kernel's where it is known, else 0.
template <typename T, int WIDTH>
struct Group {
    const ConvArgs& s;
    const int64_t width, begin, vectors;
    float* weights;  // (K, width + 1, vectors, W); the last of width + 1 is the bias
    T* nothing;      // a row of zeros, for the steps before the first and after the last

    static int64_t room(const ConvArgs& s, const Tasks& tasks) {
        return (s.directions * (s.width + 1) + 1) * (tasks.blocks / tasks.groups + 1) * W;
    }
    Group(const ConvArgs& s, const Tasks& tasks, int64_t group, float* memory)
        : s(s), width(WIDTH ? WIDTH : s.width), begin(tasks.first_block(group)),
          vectors(tasks.first_block(group + 1) - begin), weights(memory),
          nothing(reinterpret_cast<T*>(memory + s.directions * (width + 1) * vectors * W)) {
        for (int64_t k = 0; k < s.directions; k++)
            for (int64_t w = 0; w <= width; w++)
                for (int64_t i = 0; i < vectors * W; i++) {
                    const int64_t d = k * s.dim + std::min(begin * W + i, s.dim - 1);
                    weights[(k * (width + 1) + w) * vectors * W + i] = w == width ? s.bias[d] : s.weight[d * width + w];
                }
        std::memset(nothing, 0, vectors * W * sizeof(float));
    }
    int lanes(int64_t v) const { return int(std::min<int64_t>(W, s.dim - (begin + v) * W)); }
    const float* weight(int64_t k, int64_t w, int64_t v) const {
        return weights + ((k * (width + 1) + w) * vectors + v) * W;
    }
    T* row(const Stream& x, int64_t k, int64_t b, int64_t l) const { return x.row<T>(k, b, l) + begin * W; }

    // What tap w of direction k sees from step l.
    const T* seen(int64_t k, int64_t b, int64_t l, int64_t w) const {
        const int64_t from = k == 0 ? l - (width - 1 - w) : l + (width - 1 - w);
        return from < 0 || from >= s.length ? nothing : row(s.x, 0, b, from);
    }
    void look(int64_t k, int64_t b, int64_t l, std::vector<const T*>& taps) const {
        for (int64_t w = 0; w < width; w++) taps[w] = seen(k, b, l, w);
    }
    vec preactivation(int64_t k, int64_t v, const std::vector<const T*>& taps) const {
        vec pre = get(weight(k, width, v));
#pragma GCC unroll 4
        for (int64_t w = 0; w < width; w++) pre += load(taps[w] + v * W, lanes(v)) * get(weight(k, w, v));
        return pre;
    }
};

template <typename T, int WIDTH>
void run_forward(const ConvArgs& s) {
    const Tasks tasks = cut(s);
#pragma omp parallel for num_threads(s.threads) collapse(2) schedule(dynamic)
    for (int64_t b = 0; b < s.batch; b++) {
        for (int64_t g = 0; g < tasks.groups; g++) {
            static thread_local Scratch scratch;
            const FlushDenormals flush;
            const Group<T, WIDTH> group(s, tasks, g, scratch.room(Group<T, WIDTH>::room(s, tasks)));
            std::vector<const T*> taps(s.width);
            for (int64_t l = 0; l < s.length; l++)
                for (int64_t k = 0; k < s.directions; k++) {
                    T* out = group.row(s.out, k, b, l);
                    group.look(k, b, l, taps);
                    for (int64_t v = 0; v < group.vectors; v++) {
                        const vec pre = group.preactivation(k, v, taps);
                        store(out + v * W, pre * sigmoid(pre), group.lanes(v));
                    }
                }
        }
    }
}

// One image: writes dx, adds to the sums (K, blocks, width + 1, W) of dweight and dbias.
template <typename T, int WIDTH>
void backward(const ConvArgs& s, const Tasks& tasks, const Group<T, WIDTH>& group, int64_t b, float* ring, float* sums) {
    const int64_t width = group.width, reach = width - 1, rows = 2 * reach + 1, row = group.vectors * W;
    auto dpre = [&](int64_t k, int64_t l) { return ring + (k * rows + (l + rows) % rows) * row; };
    std::vector<const T*> taps(width);
    std::vector<const float*> seers(s.directions * width);  // the dpre of the steps that saw x_t, per direction and tap
    std::memset(ring, 0, s.directions * rows * row * sizeof(float));
    for (int64_t l = 0; l < s.length + reach; l++) {
        for (int64_t k = 0; k < s.directions; k++) {
            float* to = dpre(k, l);
            if (l >= s.length) {
                std::memset(to, 0, row * sizeof(float));
                continue;
            }
            group.look(k, b, l, taps);
            const T* dout = group.row(s.out, k, b, l);
            for (int64_t v = 0; v < group.vectors; v++) {
                const int lanes = group.lanes(v);
                const vec pre = group.preactivation(k, v, taps), gate = sigmoid(pre);
                // SiLU'(p) = σ(p) (1 + p (1 - σ(p)))
                const vec d = load(dout + v * W, lanes) * gate * (1.0f + pre * (1.0f - gate));
                put(to + v * W, d);
                float* sum = sums + (k * tasks.blocks + group.begin + v) * (width + 1) * W;
#pragma GCC unroll 4
                for (int64_t w = 0; w < width; w++)
                    put(sum + w * W, get(sum + w * W) + d * load(taps[w] + v * W, lanes));
                put(sum + width * W, get(sum + width * W) + d);
            }
        }
        const int64_t done = l - reach;  // every step that saw this one has passed
        if (done < 0) continue;
        for (int64_t k = 0; k < s.directions; k++)
            for (int64_t w = 0; w < width; w++)
                seers[k * width + w] = dpre(k, k == 0 ? done + reach - w : done - reach + w);
        T* to = group.row(s.dx, 0, b, done);
        for (int64_t v = 0; v < group.vectors; v++) {
            vec dx{};
            for (int64_t k = 0; k < s.directions; k++)
#pragma GCC unroll 4
                for (int64_t w = 0; w < width; w++)
                    dx += get(seers[k * width + w] + v * W) * get(group.weight(k, w, v));
            store(to + v * W, dx, group.lanes(v));
        }
    }
}

template <typename T, int WIDTH>
void run_backward(const ConvArgs& s) {
    const Tasks tasks = cut(s);
    const int64_t per_slice = s.directions * tasks.blocks * (s.width + 1) * W;
    const int64_t weights = Group<T, WIDTH>::room(s, tasks);
    const int64_t ring = s.directions * (2 * s.width - 1) * (tasks.blocks / tasks.groups + 1) * W;
    std::memset(s.partial, 0, tasks.slices * per_slice * sizeof(float));
#pragma omp parallel for num_threads(s.threads) collapse(2) schedule(dynamic)
    for (int64_t slice = 0; slice < tasks.slices; slice++) {
        for (int64_t g = 0; g < tasks.groups; g++) {
            static thread_local Scratch scratch;
            const FlushDenormals flush;
            float* memory = scratch.room(weights + ring);
            const Group<T, WIDTH> group(s, tasks, g, memory);
            for (int64_t b = tasks.first_image(slice); b < tasks.first_image(slice + 1); b++)
                backward(s, tasks, group, b, memory + weights, s.partial + slice * per_slice);
        }
    }
    for (int64_t k = 0; k < s.directions; k++)
        for (int64_t d = 0; d < s.dim; d++)
            for (int64_t w = 0; w <= s.width; w++) {
                const float* first = s.partial + ((k * tasks.blocks + d / W) * (s.width + 1) + w) * W + d % W;
                float sum = 0.0f;
                for (int64_t slice = 0; slice < tasks.slices; slice++) sum += first[slice * per_slice];
                (w == s.width ? s.dbias[k * s.dim + d] : s.dweight[(k * s.dim + d) * s.width + w]) = sum;
            }
}

constexpr int COMMON = 4;  // the width of every published Vision Mamba

}  // namespace

extern "C" {

// How many floats `partial` holds.
void conv_sizes(const ConvArgs* s, int64_t* partial) {
    const Tasks tasks = cut(*s);
    *partial = tasks.slices * s->directions * tasks.blocks * (s->width + 1) * W;
}

void conv_forward(const ConvArgs* s) {
    if (s->width == COMMON) {
        s->bf16 ? run_forward<bfloat16, COMMON>(*s) : run_forward<float, COMMON>(*s);
    } else {
        s->bf16 ? run_forward<bfloat16, 0>(*s) : run_forward<float, 0>(*s);
    }
}

void conv_backward(const ConvArgs* s) {
    if (s->width == COMMON) {
        s->bf16 ? run_backward<bfloat16, COMMON>(*s) : run_backward<float, COMMON>(*s);
    } else {
        s->bf16 ? run_backward<bfloat16, 0>(*s) : run_backward<float, 0>(*s);
    }
}
}
