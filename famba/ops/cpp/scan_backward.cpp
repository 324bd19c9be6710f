// The selective scan for CPUs, backward, both directions in one call. See scan_forward.cpp for the recurrence.
//
// With g_t = ∂loss/∂h_t, the states are not saved but recomputed: a first loop over one chunk of time leaves a_t and
// a_t h_{t-1} in a scratch that fits the L2 cache, a second loop iterates over it backwards:
//
//     g_t = C_t dy_t + a_{t+1} g_{t+1},   dC_t = Σ_d dy_t h_t,   dB_t = Σ_d g_t x_t,   dx_t = Σ_n g_t B_t,
//     dΔ_t = u_t dx_t + Σ_n A g_t a_t h_{t-1},   dA = Σ_t Δ_t g_t a_t h_{t-1}
//
// The work is cut by sizes alone and partial sums are added in a fixed order: the result does not depend on threads.
//
// What bounds it: per vector of exponentials, the two loops take 14 multiplications or multiply-adds at 512 bits and 17
// at 256 (4 and 7 for a_t, 3 + 7 for the formulae), 5 and 2 operations on adders for a_t, and 3 + 3 on adders, shuffles
// and blends for the sums over d. A core starts one of the first kind per cycle at best. Measured, softplus, gate and
// memory included: on Zen 4 25 cycles, 20 of them in the loops, when these also recomputed y; on Zen 1, where an addition
// beside multiply-adds costs nearly a cycle of theirs, 41: 13 for a_t, 6 for the rest of the first loop, 12 for the second.

#include "scan.h"

namespace {

// Steps whose a_t are computed at once, before the states: sixteen registers are too few for both side by side.
constexpr int64_t AHEAD = W < 16 ? 16 : 1;

// What the second loop reads of each step, and what it writes.
enum { DELTA, X, SLOPE, DDELTA, DX, STEP };

// The backward pass of one image and one group of blocks, block by block and direction by direction.
template <typename T>
struct Backward {
    const ScanArgs& s;
    const Plan& plan;
    int64_t b;
    float *dreads, *sums;  // the gradients of B and C; dA, dD, dbias of the slice
    float* reads;          // B and C of the image
    float* carry;          // (N', W): a g of the first step of the later chunk
    float* steps;          // (chunk, STEP, W)
    float* path;           // (chunk, NB, 2, W): a_t and a_t h_{t-1}
    float *dy, *gate;      // (L, W) each, natural order; gate is σ(z)

    static int64_t room(const ScanArgs& s, const Plan& plan) {
        return s.directions * plan.reads + plan.states * W + plan.chunk * (STEP + 2 * NB) * W + 2 * s.length * W;
    }
    Backward(const ScanArgs& s, const Plan& plan, int64_t b, float* dreads, float* sums, float* work)
        : s(s), plan(plan), b(b), dreads(dreads), sums(sums), reads(work), carry(reads + s.directions * plan.reads),
          steps(carry + plan.states * W), path(steps + plan.chunk * STEP * W), dy(path + plan.chunk * 2 * NB * W),
          gate(dy + s.length * W) {
        gather_reads<T>(s, plan, b, reads);
    }

    ALWAYS_INLINE void operator()(const Block<T>& block, const Block<T>& next) {
        if (block.k == 0) gate_forward(block);
        std::memset(carry, 0, plan.states * W * sizeof(float));
        for (int64_t c = plan.chunks - 1; c >= 0; c--) {
            const int64_t start = c * plan.chunk, stop = std::min(start + plan.chunk, s.length);
            const vec largest = prepare(block, start, stop);
            for (int64_t n0 = 0; n0 < plan.states; n0 += NB) {
                const Rows<T> prefetch_a = next.rows(n0 == 0 ? s.u : s.z);
                const Rows<T> prefetch_b = next.rows(n0 == 0 ? s.delta : s.out);
                block.moderate(largest) ? recompute_states<true>(block, c, start, stop, n0, prefetch_a, prefetch_b)
                                        : recompute_states<false>(block, c, start, stop, n0, prefetch_a, prefetch_b);
                n0 == 0 ? backward_pass(block, start, stop, n0, block.rows(s.du), block.rows(s.ddelta))
                        : backward_pass(block, start, stop, n0, block.rows(s.dz), block.rows(s.u));
            }
            finish(block, start, stop);
        }
        if (s.z.data && block.k + 1 == s.directions) gate_backward(block);
    }

    // dy = dout SiLU(z), the same for every direction: the gate follows their sum.
    ALWAYS_INLINE void gate_forward(const Block<T>& block) {
        const Rows<T> dout_rows = block.rows(s.out), z_rows = block.rows(s.z);
        const Rows<float> dy_rows = block.rows(dy), gate_rows = block.rows(gate);
        by_fours(0, s.length, [&](int64_t t, auto kind) ALWAYS_INLINE {
            using V = decltype(kind);
            V dout = load<V>(dout_rows, t, block.lanes);
            if (s.z.data) {
                const V z = load<V>(z_rows, t, block.lanes), open = sigmoid(z);
                dout = dout * (z * open);
                store(gate_rows, t, open, W);
            }
            store(dy_rows, t, dout, W);
        });
    }

    // Returns the largest |Δ| of each channel.
    ALWAYS_INLINE vec prepare(const Block<T>& block, int64_t start, int64_t stop) {
        const Rows<T> delta_rows = block.rows(s.delta), u_rows = block.rows(s.u);
        vec largest{};
        by_fours(start, stop, [&](int64_t t, auto kind) ALWAYS_INLINE {
            using V = decltype(kind);
            V slope;
            const V delta = block.delta(load<V>(delta_rows, t, block.lanes), slope);
            store(stored(DELTA, start), t, delta, W);
            store(stored(X, start), t, delta * load<V>(u_rows, t, block.lanes), W);
            store(stored(SLOPE, start), t, slope, W);
            largest = max(largest, largest_of(abs(delta)));
        });
        return largest;
    }

    // Rebuilds the states n0 … n0 + NB of a chunk; leaves the path behind, adds to dC.
    template <bool MODERATE>
    ALWAYS_INLINE void recompute_states(const Block<T>& block, int64_t c, int64_t start, int64_t stop, int64_t n0,
                                        Rows<T> prefetch_a, Rows<T> prefetch_b) {
        const Rows<float> dy_rows = block.rows(dy);
        const float *A = block.A + n0 * W, *BC = reads + block.k * plan.reads + n0;
        float* dC = dread(block, n0) + plan.states;
        vec h[NB];
        const int64_t before = plan.checkpoint(s, block.k, b, block.index, c) + n0 * W;
        for (int n = 0; n < NB; n++) h[n] = c == 0 ? vec{} : get(s.checkpoints + before + n * W);
        for (int64_t t = start; t < stop; t++) {
            const float *B = BC + t * 2 * plan.states, *step = steps + (t - start) * STEP * W;
            float* path_t = path + (t - start) * 2 * NB * W;
            if ((t - start) % AHEAD == 0)
                for (int64_t i = 0; i < (AHEAD == 1 ? 1 : std::min(AHEAD, stop - t)); i++)
                    put_decays<MODERATE>(A, step + i * STEP * W, path_t + i * 2 * NB * W);
            const vec x = get(step + X * W), dy_t = get(dy_rows[t]);
            vec folded[NB / 4];
#pragma GCC unroll 2
            for (int first = 0; first < NB; first += 4) {
                vec product[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    const int n = first + i;
                    const vec passed = get(path_t + 2 * n * W) * h[n];
                    put(path_t + (2 * n + 1) * W, passed);
                    h[n] = passed + x * B[n];
                    product[i] = h[n] * dy_t;
                }
                folded[first / 4] = transpose_add(product);
            }
            add_lane_sums(folded, dC + t * 2 * plan.states);
            prefetch_a.prefetch(t);
            prefetch_b.prefetch(t);
        }
    }

    template <bool MODERATE>
    ALWAYS_INLINE static void put_decays(const float* A, const float* step, float* path_t) {
        const four delta = get(step + DELTA * W);
#pragma GCC unroll 2
        for (int n = 0; n < NB; n += 4)
            store(Rows<float>{path_t, 2 * W}, n, exp2_of_product<MODERATE>(delta, get_four(A + n * W)), W);
    }

    // From the last step of a chunk to its first; adds to dB, dx, dΔ and dA.
    ALWAYS_INLINE void backward_pass(const Block<T>& block, int64_t start, int64_t stop, int64_t n0, Rows<T> prefetch_a,
                                     Rows<T> prefetch_b) {
        const Rows<float> dy_rows = block.rows(dy);
        const float *A = block.A + n0 * W, *BC = reads + block.k * plan.reads + n0;
        float* dB = dread(block, n0);
        vec carried[NB], dA[NB];  // a_{t+1} g_{t+1}; the sum over the chunk
        for (int n = 0; n < NB; n++) carried[n] = get(carry + (n0 + n) * W), dA[n] = vec{};
        for (int64_t t = stop - 1; t >= start; t--) {
            const float *B = BC + t * 2 * plan.states, *C = B + plan.states;
            const float* path_t = path + (t - start) * 2 * NB * W;
            float* step = steps + (t - start) * STEP * W;
            const vec delta = get(step + DELTA * W), x = get(step + X * W), dy_t = get(dy_rows[t]);
            vec ddelta{}, dx{}, folded[NB / 4];
            if (n0 > 0) ddelta = get(step + DDELTA * W), dx = get(step + DX * W);
#pragma GCC unroll 2
            for (int first = 0; first < NB; first += 4) {
                vec product[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    const int n = first + i;
                    const vec g = carried[n] + dy_t * C[n];
                    const vec q = g * get(path_t + (2 * n + 1) * W);
                    product[i] = g * x;
                    dx += g * B[n];
                    ddelta += q * get(A + n * W);
                    dA[n] += q * delta;
                    carried[n] = g * get(path_t + 2 * n * W);
                }
                folded[first / 4] = transpose_add(product);
            }
            put(step + DDELTA * W, ddelta);
            put(step + DX * W, dx);
            add_lane_sums(folded, dB + t * 2 * plan.states);
            prefetch_a.prefetch(t);
            prefetch_b.prefetch(t);
        }
        for (int n = 0; n < NB; n++) {
            float* sum = sums_of(block) + (n0 + n) * W;
            put(carry + (n0 + n) * W, carried[n]);
            put(sum, get(sum) + dA[n]);
        }
    }

    // du and ddelta of a chunk; dD and dbias.
    ALWAYS_INLINE void finish(const Block<T>& block, int64_t start, int64_t stop) {
        const Rows<T> u_rows = block.rows(s.u), du_rows = block.rows(s.du), ddelta_rows = block.rows(s.ddelta);
        const Rows<float> dy_rows = block.rows(dy);
        vec dD{}, dbias{};
        for (int64_t t = start; t < stop; t++) {
            const float* step = steps + (t - start) * STEP * W;
            const vec dy_t = get(dy_rows[t]), u = load(u_rows[t], block.lanes), dx = get(step + DX * W);
            // the decay rates are A log2(e), so their sum is log2(e) too large
            const vec ddelta = (get(step + DDELTA * W) * LN2 + dx * u) * get(step + SLOPE * W);
            store(ddelta_rows[t], ddelta, block.lanes);
            store(du_rows[t], dx * get(step + DELTA * W) + block.D * dy_t, block.lanes);
            dD += dy_t * u;
            dbias += ddelta;
        }
        float* sum = sums_of(block) + plan.states * W;
        put(sum, get(sum) + dD);
        put(sum + W, get(sum + W) + dbias);
    }

    ALWAYS_INLINE void gate_backward(const Block<T>& block) {
        const Rows<T> dout_rows = block.rows(s.out), z_rows = block.rows(s.z), dz_rows = block.rows(s.dz);
        const Rows<T> y_rows = block.rows(s.y), recomputed_rows = block.rows(s.recomputed_out);
        const Rows<float> gate_rows = block.rows(gate);
        for (int64_t t = 0; t < s.length; t++) {
            const vec dout = load(dout_rows[t], block.lanes), z = load(z_rows[t], block.lanes);
            const vec open = get(gate_rows[t]), y = load(y_rows[t], block.lanes);
            // SiLU'(z) = σ(z) (1 + z (1 - σ(z)))
            store(dz_rows[t], dout * y * open * (1.0f + z * (1.0f - open)), block.lanes);
            if (s.recomputed_out.data) store(recomputed_rows[t], y * (z * open), block.lanes);
        }
    }

    // One of what `steps` holds, by scan time, of a chunk that begins at `start`.
    Rows<float> stored(int which, int64_t start) const { return {steps + (which - start * STEP) * W, STEP * W}; }
    float* dread(const Block<T>& block, int64_t n0) const { return dreads + block.k * s.batch * plan.reads + n0; }
    float* sums_of(const Block<T>& block) const {
        return sums + (block.k * plan.blocks + block.index) * plan.sums;
    }
};

// The partial sums of the tasks, added in the order of the batch slices and of the groups.
template <typename T>
void add_partials(const ScanArgs& s, const Plan& plan, const float* sums, const float* dreads) {
    const int64_t per_slice = s.directions * plan.blocks * plan.sums, per_group = s.directions * s.batch * plan.reads;
#pragma omp parallel for num_threads(s.threads) collapse(2) schedule(static)
    for (int64_t k = 0; k < s.directions; k++) {
        for (int64_t block = 0; block < plan.blocks; block++) {
            const float* first = sums + (k * plan.blocks + block) * plan.sums;
            const int64_t d = k * s.dim + block * W, lanes = std::min<int64_t>(W, s.dim - block * W);
            for (int64_t n = 0; n < plan.states + 2; n++) {
                vec sum{};
                for (int64_t i = 0; i < plan.slices; i++) sum += get(first + i * per_slice + n * W);
                for (int64_t i = 0; i < lanes; i++) {
                    if (n < s.state) s.dA[(d + i) * s.state + n] = sum[i];
                    if (n == plan.states && s.dD) s.dD[d + i] = sum[i];
                    if (n == plan.states + 1 && s.dbias) s.dbias[d + i] = sum[i];
                }
            }
        }
    }
#pragma omp parallel for num_threads(s.threads) collapse(2) schedule(static)
    for (int64_t k = 0; k < s.directions; k++) {
        for (int64_t b = 0; b < s.batch; b++) {
            for (int64_t t = 0; t < s.length; t++) {
                const float* step = dreads + (k * s.batch + b) * plan.reads + t * 2 * plan.states;
                const int64_t l = k == 0 ? t : s.length - 1 - t;
                T* to[2] = {s.dB.row<T>(k, b, l), s.dC.row<T>(k, b, l)};
                for (int which = 0; which < 2; which++) {
                    for (int64_t n = 0; n < s.state; n += W) {
                        const int lanes = int(std::min<int64_t>(W, s.state - n));
                        vec sum{};
                        for (int64_t g = 0; g < plan.groups; g++)
                            sum += load(step + g * per_group + which * plan.states + n, lanes);
                        store(to[which] + n, sum, lanes);
                    }
                }
            }
        }
    }
}

template <typename T>
void run_backward(const ScanArgs& s) {
    static thread_local Scratch of_all;
    const Plan plan(s);
    const float* rates = decay_rates(s, plan, of_all);
    const int64_t per_slice = s.directions * plan.blocks * plan.sums, per_group = s.directions * s.batch * plan.reads;
    float *sums = s.partial, *dreads = sums + plan.slices * per_slice;
#pragma omp parallel for num_threads(s.threads) collapse(2) schedule(dynamic)
    for (int64_t slice = 0; slice < plan.slices; slice++) {
        for (int64_t group = 0; group < plan.groups; group++) {
            static thread_local Scratch scratch;
            const FlushDenormals flush;
            float* memory = scratch.room(Backward<T>::room(s, plan));
            // the blocks of this task, in every direction
            const int64_t begin = plan.first_block(group), end = plan.first_block(group + 1);
            for (int64_t k = 0; k < s.directions; k++)
                std::memset(sums + slice * per_slice + (k * plan.blocks + begin) * plan.sums, 0,
                            (end - begin) * plan.sums * sizeof(float));
            for (int64_t b = plan.first_image(slice); b < plan.first_image(slice + 1); b++) {
                float* dreads_b = dreads + group * per_group + b * plan.reads;
                for (int64_t k = 0; k < s.directions; k++)
                    std::memset(dreads_b + k * s.batch * plan.reads, 0, plan.reads * sizeof(float));
                Backward<T> pass(s, plan, b, dreads_b, sums + slice * per_slice, memory);
                for_each_block<T>(s, plan, rates, b, group, pass);
            }
        }
    }
    add_partials<T>(s, plan, sums, dreads);
}

}  // namespace

extern "C" {

// How many floats `checkpoints` and `partial` hold.
void scan_sizes(const ScanArgs* s, int64_t* checkpoints, int64_t* partial) {
    const Plan plan(*s);
    *checkpoints = s->directions * s->batch * plan.blocks * (plan.chunks - 1) * plan.states * W;
    *partial = s->directions * (plan.slices * plan.blocks * plan.sums + plan.groups * s->batch * plan.reads);
}

void scan_backward(const ScanArgs* s) { s->bf16 ? run_backward<bfloat16>(*s) : run_backward<float>(*s); }
}
