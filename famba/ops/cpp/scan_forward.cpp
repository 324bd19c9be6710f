// The selective scan for CPUs, forward, both directions in one call. See scan.py for the interface.
//
// A task is an image times a group of channel blocks; W channels are the lanes of a vector. For every block the
// recurrence runs over time with NB states in registers:
//
//     h_t = a_t h_{t-1} + x_t B_t,   a_t = exp(Δ_t A),   x_t = Δ_t u_t,   y_t = C_t·h_t + D u_t
//
// Time is cut into chunks only where the scratch of the backward pass would not fit the cache: then the state before
// each chunk is saved.

#include "scan.h"

namespace {

template <typename T>
struct Forward {
    const ScanArgs& s;
    const Plan& plan;
    float* reads;  // B and C of the image
    float* h;      // (N', W), between chunks
    float* steps;  // (chunk, 2, W): Δ and x
    float* y;      // (L, W), natural order

    static int64_t room(const ScanArgs& s, const Plan& plan) {
        return s.directions * plan.reads + plan.states * W + plan.chunk * 2 * W + s.length * W;
    }
    Forward(const ScanArgs& s, const Plan& plan, int64_t b, float* work)
        : s(s), plan(plan), reads(work), h(reads + s.directions * plan.reads), steps(h + plan.states * W),
          y(steps + plan.chunk * 2 * W) {
        gather_reads<T>(s, plan, b, reads);
    }

    ALWAYS_INLINE void operator()(const Block<T>& block, const Block<T>& next) {
        std::memset(h, 0, plan.states * W * sizeof(float));
        for (int64_t c = 0; c < plan.chunks; c++) {
            const int64_t start = c * plan.chunk, stop = std::min(start + plan.chunk, s.length);
            if (c > 0 && s.checkpoints)
                std::memcpy(s.checkpoints + plan.checkpoint(s, block.k, block.b, block.index, c), h,
                            plan.states * W * sizeof(float));
            const vec largest = prepare(block, start, stop);
            for (int64_t n0 = 0; n0 < plan.states; n0 += NB) {
                const Rows<T> prefetch_a = n0 == 0 ? next.rows(s.u) : block.rows(s.z);
                const Rows<T> prefetch_b = n0 == 0 ? next.rows(s.delta) : block.rows(s.out);
                block.moderate(largest) ? run<true>(block, start, stop, n0, prefetch_a, prefetch_b)
                                        : run<false>(block, start, stop, n0, prefetch_a, prefetch_b);
            }
        }
        if (block.k + 1 == s.directions) finish(block);
    }

    // Returns the largest |Δ| of each channel.
    ALWAYS_INLINE vec prepare(const Block<T>& block, int64_t start, int64_t stop) {
        const Rows<T> delta_rows = block.rows(s.delta), u_rows = block.rows(s.u);
        const Rows<float> y_rows = block.rows(y);
        const Rows<float> delta_stored{steps - start * 2 * W, 2 * W}, x_stored{delta_stored[0] + W, 2 * W};
        vec largest{};
        by_fours(start, stop, [&](int64_t t, auto kind) ALWAYS_INLINE {
            using V = decltype(kind);
            V slope;
            const V delta = block.delta(load<V>(delta_rows, t, block.lanes), slope);
            const V u = load<V>(u_rows, t, block.lanes), skipped = V(block.D) * u;
            store(delta_stored, t, delta, W);
            store(x_stored, t, delta * u, W);
            store(y_rows, t, block.k == 0 ? skipped : load<V>(y_rows, t, W) + skipped, W);
            largest = max(largest, largest_of(abs(delta)));
        });
        return largest;
    }

    // The states n0 … n0 + NB of a chunk; adds to y.
    template <bool MODERATE>
    ALWAYS_INLINE void run(const Block<T>& block, int64_t start, int64_t stop, int64_t n0, Rows<T> prefetch_a,
                            Rows<T> prefetch_b) {
        const Rows<float> y_rows = block.rows(y);
        const float *A = block.A + n0 * W, *BC = reads + block.k * plan.reads + n0;
        vec state[NB];
        for (int n = 0; n < NB; n++) state[n] = get(h + (n0 + n) * W);
        for (int64_t t = start; t < stop; t++) {
            const float *B = BC + t * 2 * plan.states, *C = B + plan.states, *step = steps + (t - start) * 2 * W;
            const vec delta = get(step), x = get(step + W);
            vec even = get(y_rows[t]), odd{};
#pragma GCC unroll 2
            for (int first = 0; first < NB; first += 4) {
                const four a = exp2_of_product<MODERATE>(four(delta), get_four(A + first * W));
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    const int n = first + i;
                    state[n] = a.of[i] * state[n] + x * B[n];
                    (n % 2 ? odd : even) += state[n] * C[n];
                }
            }
            put(y_rows[t], even + odd);
            prefetch_a.prefetch(t);
            prefetch_b.prefetch(t);
        }
        for (int n = 0; n < NB; n++) put(h + (n0 + n) * W, state[n]);
    }

    ALWAYS_INLINE void finish(const Block<T>& block) {
        const auto rows = [&](const Stream& x) { return Rows<T>{x.row<T>(0, block.b, 0) + block.first, x.l}; };
        const Rows<T> total_rows = rows(s.y), z_rows = rows(s.z), out_rows = rows(s.out);
        by_fours(0, s.length, [&](int64_t l, auto kind) ALWAYS_INLINE {
            using V = decltype(kind);
            V result = load<V>(Rows<float>{y, W}, l, W);
            if (s.y.data) {  // in the streams' type, so that the backward pass finds what the gate has seen
                store(total_rows, l, result, block.lanes);
                result = load<V>(total_rows, l, block.lanes);
            }
            if (s.z.data) {
                const V z = load<V>(z_rows, l, block.lanes);
                result = result * (z * sigmoid(z));
            }
            store(out_rows, l, result, block.lanes);
        });
    }
};

template <typename T>
void run_forward(const ScanArgs& s) {
    static thread_local Scratch of_all;
    const Plan plan(s);
    const float* rates = decay_rates(s, plan, of_all);
#pragma omp parallel for num_threads(s.threads) collapse(2) schedule(dynamic)
    for (int64_t b = 0; b < s.batch; b++) {
        for (int64_t group = 0; group < plan.groups; group++) {
            static thread_local Scratch scratch;
            const FlushDenormals flush;
            Forward<T> pass(s, plan, b, scratch.room(Forward<T>::room(s, plan)));
            for_each_block<T>(s, plan, rates, b, group, pass);
        }
    }
}

}  // namespace

extern "C" {

void scan_forward(const ScanArgs* s) { s->bf16 ? run_forward<bfloat16>(*s) : run_forward<float>(*s); }

// exp, for tests of its accuracy.
void vector_exp(const float* x, float* y, int64_t size) {
    for (int64_t i = 0; i < size; i += W) {
        const int lanes = int(std::min<int64_t>(W, size - i));
        store(y + i, exp(load(x + i, lanes)), lanes);
    }
}
}
