// SiLU of the depthwise causal convolution for CPUs, both directions in one call. See cpu.py for the interface.
//
//     pre_t = bias + Σ_w weight_w x_{t-R+w}   (in reversed time x_{t+R-w}),   R = width - 1,   out_t = SiLU(pre_t)
//
// A vector of channels walks over the steps with a window of width steps in registers. Both directions read the same
// window: once x_{l-R} … x_l are there, direction 0 is at step l and direction 1 at step l - R. Backward, pre_t is
// formed again, and two more windows hold ∂loss/∂pre of the directions: both are complete for dx_{l-R} at that moment.

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

Tasks cut(const ConvArgs& s) { return Tasks(s.batch, s.dim, 8); }

// The latest vectors, the last at width - 1: in registers where the width is known, else (WIDTH = 0) in memory.
template <int WIDTH>
struct Window {
    vec v[WIDTH] = {};

    Window(float*, int64_t) {}
    vec operator[](int64_t i) const { return v[i]; }
    void push(vec x) {
#pragma GCC unroll 8
        for (int i = 0; i + 1 < WIDTH; i++) v[i] = v[i + 1];
        v[WIDTH - 1] = x;
    }
};
template <>
struct Window<0> {
    float* memory;
    int64_t width;

    Window(float* memory, int64_t width) : memory(memory), width(width) {
        std::memset(memory, 0, width * W * sizeof(float));
    }
    vec operator[](int64_t i) const { return get(memory + i * W); }
    void push(vec x) {
        std::memmove(memory, memory + W, (width - 1) * W * sizeof(float));
        put(memory + (width - 1) * W, x);
    }
};

// Sums of width + 1 vectors, kept likewise; what they come to is added to `to`.
template <int WIDTH>
struct Sums {
    vec v[WIDTH + 1] = {};
    float* to;

    explicit Sums(float* to) : to(to) {}
    void add(int64_t i, vec x) { v[i] += x; }
    void finish() const {
        for (int i = 0; i <= WIDTH; i++) put(to + i * W, get(to + i * W) + v[i]);
    }
};
template <>
struct Sums<0> {
    float* to;

    explicit Sums(float* to) : to(to) {}
    void add(int64_t i, vec x) { put(to + i * W, get(to + i * W) + x); }
    void finish() const {}
};

// One vector of channels of one image.
template <typename T, int WIDTH>
struct Channels {
    const ConvArgs& s;
    const int64_t b, first, width, reach;
    const int lanes;
    float *weights, *memory;  // (2, width + 1, W), the last of width + 1 is the bias; the windows' where they need it

    static int64_t room(const ConvArgs& s) { return (2 * (s.width + 1) + 3 * s.width) * W; }

    Channels(const ConvArgs& s, int64_t b, int64_t block, float* work)
        : s(s), b(b), first(block * W), width(WIDTH ? WIDTH : s.width), reach(width - 1),
          lanes(int(s.dim - first < W ? s.dim - first : W)), weights(work), memory(work + 2 * (width + 1) * W) {
        std::memset(weights, 0, 2 * (width + 1) * W * sizeof(float));
        for (int64_t k = 0; k < s.directions; k++)
            for (int64_t w = 0; w <= width; w++)
                for (int64_t i = 0; i < lanes; i++) {
                    const int64_t d = k * s.dim + first + i;
                    weights[(k * (width + 1) + w) * W + i] = w == width ? s.bias[d] : s.weight[d * width + w];
                }
    }
    Window<WIDTH> window(int64_t which) const { return Window<WIDTH>(memory + which * width * W, width); }
    vec weight(int64_t k, int64_t w) const { return get(weights + (k * (width + 1) + w) * W); }
    Rows<T> rows(const Stream& x, int64_t k) const { return {x.row<T>(k, b, 0) + first, x.l}; }
    vec at(const Rows<T>& rows, int64_t l) const { return l < s.length ? load(rows[l], lanes) : vec{}; }

    // Where tap w of direction k lies in the window.
    int64_t tap(int64_t k, int64_t w) const { return k == 0 ? w : reach - w; }

    ALWAYS_INLINE vec preactivation(int64_t k, const Window<WIDTH>& x) const {
        vec pre = weight(k, width);
#pragma GCC unroll 8
        for (int64_t w = 0; w < width; w++) pre += x[tap(k, w)] * weight(k, w);
        return pre;
    }

    ALWAYS_INLINE void forward() const {
        const Rows<T> x_rows = rows(s.x, 0), out_rows[2] = {rows(s.out, 0), rows(s.out, 1)};
        Window<WIDTH> x = window(0);
        for (int64_t l = 0; l < s.length + reach; l++) {
            x.push(at(x_rows, l));
            x_rows.prefetch(l, W);
#pragma GCC unroll 2
            for (int64_t k = 0; k < 2; k++) {
                const int64_t step = k == 0 ? l : l - reach;
                if (k == s.directions || step < 0 || step >= s.length) continue;
                const vec pre = preactivation(k, x);
                store(out_rows[k][step], pre * sigmoid(pre), lanes);
                out_rows[k].prefetch(step, W);
            }
        }
    }

    // Writes dx, adds to the sums of dweight and dbias: `sums` has (width + 1, W) for direction 0, and `apart` floats
    // further for direction 1.
    ALWAYS_INLINE void backward(float* sums, int64_t apart) const {
        const Rows<T> x_rows = rows(s.x, 0), dx_rows = rows(s.dx, 0);
        const Rows<T> dout_rows[2] = {rows(s.out, 0), rows(s.out, 1)};
        Window<WIDTH> x = window(0), dpre[2] = {window(1), window(2)};
        Sums<WIDTH> dweight[2] = {Sums<WIDTH>(sums), Sums<WIDTH>(sums + apart)};
        for (int64_t l = 0; l < s.length + reach; l++) {
            x.push(at(x_rows, l));
            x_rows.prefetch(l, W);
            vec dx{};
#pragma GCC unroll 2
            for (int64_t k = 0; k < 2; k++) {
                const int64_t step = k == 0 ? l : l - reach;
                if (k == s.directions) continue;
                vec d{};
                if (step >= 0 && step < s.length) {
                    const vec pre = preactivation(k, x), gate = sigmoid(pre);
                    // SiLU'(p) = σ(p) (1 + p (1 - σ(p)))
                    d = load(dout_rows[k][step], lanes) * gate * (1.0f + pre * (1.0f - gate));
                    dout_rows[k].prefetch(step, W);
                }
                dpre[k].push(d);
                dweight[k].add(width, d);
#pragma GCC unroll 8
                for (int64_t w = 0; w < width; w++) {
                    dweight[k].add(w, d * x[tap(k, w)]);
                    dx += dpre[k][tap(1 - k, w)] * weight(k, w);
                }
            }
            if (l < reach) continue;
            store(dx_rows[l - reach], dx, lanes);
            dx_rows.prefetch(l - reach, W);
        }
        for (int64_t k = 0; k < s.directions; k++) dweight[k].finish();
    }
};

template <typename T, int WIDTH>
void run_forward(const ConvArgs& s) {
    const Tasks tasks = cut(s);
#pragma omp parallel for num_threads(s.threads) collapse(2) schedule(dynamic)
    for (int64_t b = 0; b < s.batch; b++) {
        for (int64_t group = 0; group < tasks.groups; group++) {
            static thread_local Scratch scratch;
            const FlushDenormals flush;
            float* work = scratch.room(Channels<T, WIDTH>::room(s));
            for (int64_t block = tasks.first_block(group); block < tasks.first_block(group + 1); block++)
                Channels<T, WIDTH>(s, b, block, work).forward();
        }
    }
}

template <typename T, int WIDTH>
void run_backward(const ConvArgs& s) {
    const Tasks tasks = cut(s);
    const int64_t per_block = (s.width + 1) * W, per_slice = s.directions * tasks.blocks * per_block;
    std::memset(s.partial, 0, tasks.slices * per_slice * sizeof(float));
#pragma omp parallel for num_threads(s.threads) collapse(2) schedule(dynamic)
    for (int64_t slice = 0; slice < tasks.slices; slice++) {
        for (int64_t group = 0; group < tasks.groups; group++) {
            static thread_local Scratch scratch;
            const FlushDenormals flush;
            float *work = scratch.room(Channels<T, WIDTH>::room(s)), *sums = s.partial + slice * per_slice;
            for (int64_t b = tasks.first_image(slice); b < tasks.first_image(slice + 1); b++)
                for (int64_t block = tasks.first_block(group); block < tasks.first_block(group + 1); block++)
                    Channels<T, WIDTH>(s, b, block, work).backward(sums + block * per_block, tasks.blocks * per_block);
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
