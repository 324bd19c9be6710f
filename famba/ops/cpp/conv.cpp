// SiLU of the depthwise causal convolution for CPUs, both directions in one call. See scan.py for the interface.
//
//     pre_t = bias + Σ_w weight_w x_{t-R+w}   (in reversed time x_{t+R-w}),   R = width - 1,   out_t = SiLU(pre_t)
//
// The steps of a vector of channels are gathered between R zeros on either side, so that each tap of each direction is a
// load at an offset of its own, and four steps go side by side. Backward, pre_t is recomputed, and ∂loss/∂pre lies
// between zeros likewise: dx is a convolution of it with the taps of the other direction.

#include "tensors.h"

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

// One vector of channels of one image. WIDTH: the width, or 0 where only the arguments know it.
template <typename T, int WIDTH>
struct Channels {
    const ConvArgs& s;
    const int64_t b, first, width, reach, padded;
    const int lanes;
    float *weights, *x, *dpre;  // (2, width + 1, W), the last of width + 1 is the bias; (padded, W); (2, padded, W)

    static int64_t room(const ConvArgs& s) { return (2 * (s.width + 1) + 3 * (s.length + 2 * (s.width - 1))) * W; }

    Channels(const ConvArgs& s, int64_t b, int64_t block, float* work)
        : s(s), b(b), first(block * W), width(WIDTH ? WIDTH : s.width), reach(width - 1), padded(s.length + 2 * reach),
          lanes(int(s.dim - first < W ? s.dim - first : W)), weights(work), x(work + 2 * (width + 1) * W),
          dpre(x + padded * W) {
        std::memset(weights, 0, 2 * (width + 1) * W * sizeof(float));
        for (int64_t k = 0; k < s.directions; k++)
            for (int64_t w = 0; w <= width; w++)
                for (int64_t i = 0; i < lanes; i++) {
                    const int64_t d = k * s.dim + first + i;
                    weights[(k * (width + 1) + w) * W + i] = w == width ? s.bias[d] : s.weight[d * width + w];
                }
    }
    vec weight(int64_t k, int64_t w) const { return get(weights + (k * (width + 1) + w) * W); }
    Rows<T> rows(const Stream& from, int64_t k = 0) const { return {from.row<T>(k, b, 0) + first, from.l}; }
    // From where tap w of direction k reads for step 0; its transpose, from where the gradient does, is 1 - k's.
    Rows<float> tap(float* from, int64_t k, int64_t w) const { return {from + (k == 0 ? w : 2 * reach - w) * W, W}; }

    // x between zeros; asks for what comes next: x of the next block, `out` of this one.
    void gather() const {
        const Rows<T> from = rows(s.x), outs[2] = {rows(s.out, 0), rows(s.out, s.directions - 1)};
        const Rows<float> to = between_zeros(x);
        for (int64_t l = 0; l < s.length; l++) {
            put(to[l], load(from[l], lanes));
            from.prefetch(l, W);
            for (const Rows<T>& out : outs) out.prefetch(l);
        }
    }
    // Puts the zeros there; returns the rows between them.
    Rows<float> between_zeros(float* of) const {
        std::memset(of, 0, reach * W * sizeof(float));
        std::memset(of + (padded - reach) * W, 0, reach * W * sizeof(float));
        return {of + reach * W, W};
    }

    template <typename V>
    ALWAYS_INLINE V preactivation(int64_t k, int64_t t) const {
        V pre = weight(k, width);
#pragma GCC unroll 8
        for (int64_t w = 0; w < width; w++) pre = pre + load<V>(tap(x, k, w), t, W) * V(weight(k, w));
        return pre;
    }

    ALWAYS_INLINE void forward() const {
        gather();
        for (int64_t k = 0; k < s.directions; k++) {
            const Rows<T> out_rows = rows(s.out, k);
            by_fours(0, s.length, [&](int64_t t, auto kind) ALWAYS_INLINE {
                const auto pre = preactivation<decltype(kind)>(k, t);
                store(out_rows, t, pre * sigmoid(pre), lanes);
            });
        }
    }

    // Writes dx, adds to the sums of dweight and dbias: `sums` has (width + 1, W) for direction 0, and `apart` floats
    // further for direction 1.
    ALWAYS_INLINE void backward(float* sums, int64_t apart) const {
        gather();
        for (int64_t k = 0; k < s.directions; k++) {
            const Rows<T> dout_rows = rows(s.out, k);
            const Rows<float> d_rows = between_zeros(dpre + k * padded * W);
            by_fours(0, s.length, [&](int64_t t, auto kind) ALWAYS_INLINE {
                using V = decltype(kind);
                const V pre = preactivation<V>(k, t), gate = sigmoid(pre);
                // SiLU'(p) = σ(p) (1 + p (1 - σ(p)))
                store(d_rows, t, load<V>(dout_rows, t, lanes) * gate * (1.0f + pre * (1.0f - gate)), W);
            });
            add_sums(k, d_rows, sums + k * apart);
        }
        const Rows<T> dx_rows = rows(s.dx);
        by_fours(0, s.length, [&](int64_t t, auto kind) ALWAYS_INLINE {
            using V = decltype(kind);
            V dx{};
            for (int64_t k = 0; k < s.directions; k++)
#pragma GCC unroll 8
                for (int64_t w = 0; w < width; w++)
                    dx = dx + load<V>(tap(dpre + k * padded * W, 1 - k, w), t, W) * V(weight(k, w));
            store(dx_rows, t, dx, lanes);
        });
    }

    // d_rows: ∂loss/∂pre of direction k.
    ALWAYS_INLINE void add_sums(int64_t k, const Rows<float>& d_rows, float* sums) const {
        const auto add = [&](int64_t w, vec sum) { put(sums + w * W, get(sums + w * W) + sum); };
        vec dbias{};
        for (int64_t t = 0; t < s.length; t++) dbias += get(d_rows[t]);
        add(width, dbias);
        for (int64_t w0 = 0; w0 < width; w0 += 4) {
            four sum{};
            for (int64_t t = 0; t < s.length; t++) {
                const vec d = get(d_rows[t]);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++)
                    if (w0 + i < width) sum.of[i] += d * get(tap(x, k, w0 + i)[t]);
            }
            for (int i = 0; i < 4 && w0 + i < width; i++) add(w0 + i, sum.of[i]);
        }
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
