// The selective scan for CPUs, forward and backward, both directions in one call. See cpu.py for the interface.
//
// A task is a slice of the batch times a group of channel blocks; W channels are the lanes of a vector. For every block
// the recurrence runs over time with NB states in registers:
//
//     h_t = a_t h_{t-1} + x_t B_t,   a_t = exp(Δ_t A),   x_t = Δ_t u_t,   y_t = C_t·h_t + D u_t
//
// Backward, with g_t = ∂loss/∂h_t, the states are not stored but rebuilt: a first walk forward leaves a_t and a_t h_{t-1}
// of one chunk of time in a scratch that fits the L2 cache, a second walk comes back through it:
//
//     g_t = C_t dy_t + a_{t+1} g_{t+1},   dC_t = Σ_d dy_t h_t,   dB_t = Σ_d g_t x_t,   dx_t = Σ_n g_t B_t,
//     dΔ_t = u_t dx_t + Σ_n A g_t a_t h_{t-1},   dA = Σ_t Δ_t g_t a_t h_{t-1}
//
// Time is cut into chunks only where the scratch would not fit; then the forward pass keeps the state before each chunk.
// The work is cut by the sizes alone and partial sums are added in a fixed order: the result does not depend on threads.

#include <algorithm>

#include "simd.h"

using namespace simd;

struct ScanArgs {
    int64_t directions, batch, length, dim, state;
    int64_t bf16, softplus, threads;
    Stream u, delta, B, C, z, out;  // forward: `out` is written; backward: it is the gradient that arrives
    const float *A, *D, *bias;      // (K, D, N), (K, D) or null, (K, D) or null
    float* checkpoints;             // see scan_sizes; null where no gradient will be asked for
    float* partial;                 // backward: see scan_sizes
    Stream du, ddelta, dB, dC, dz;
    float *dA, *dD, *dbias;
};

namespace {

constexpr int64_t SCRATCH_BYTES = 448 << 10;  // of a_t and a_t h_{t-1}: half of a common L2

struct Plan : Tasks {
    int64_t states;         // N rounded up to whole register blocks
    int64_t chunk, chunks;  // steps of time
    int64_t sums;           // floats per (slice, k, block): dA, dD, dbias
    int64_t reads;          // floats per (k, b): dB and dC, interleaved per step

    explicit Plan(const ScanArgs& s) : Tasks(s.batch, s.dim, 1) {
        states = (s.state + NB - 1) / NB * NB;
        const int64_t longest = SCRATCH_BYTES / int64_t(2 * NB * W * sizeof(float));
        chunks = std::max<int64_t>(1, (s.length + longest - 1) / longest);
        chunk = (s.length + chunks - 1) / chunks;
        sums = (states + 2) * W;
        reads = s.length * states * 2;
    }
    int64_t checkpoint(const ScanArgs& s, int64_t k, int64_t b, int64_t block, int64_t c) const {
        return ((((k * s.batch + b) * blocks + block) * (chunks - 1)) + c - 1) * states * W;
    }
};

// One block of channels of one direction of one image: where it lies, and its parameters as vectors.
template <typename T>
struct Block {
    const ScanArgs& s;
    const Plan& plan;
    int64_t k, b, index, first;
    int lanes;
    vec D, bias;

    Block(const ScanArgs& s, const Plan& plan, int64_t k, int64_t b, int64_t index)
        : s(s), plan(plan), k(k), b(b), index(index), first(index * W),
          lanes(int(std::min<int64_t>(W, s.dim - first))), D(s.D ? load(s.D + k * s.dim + first, lanes) : vec{}),
          bias(s.bias ? load(s.bias + k * s.dim + first, lanes) : vec{}) {}

    int64_t natural(int64_t t) const { return k == 0 ? t : s.length - 1 - t; }
    T* at(const Stream& x, int64_t t) const { return x.row<T>(k, b, natural(t)) + first; }

    // A log2(e) as (N, W): the decay is exp2(Δ A')
    void decay_rates(float* A) const {
        for (int64_t n = 0; n < plan.states; n++)
            for (int i = 0; i < W; i++)
                A[n * W + i] = n < s.state && i < lanes ? s.A[(k * s.dim + first + i) * s.state + n] * LOG2E : 0.0f;
    }
    vec delta(int64_t t, vec& slope) const {
        const vec raw = load(at(s.delta, t), lanes) + bias;
        slope = splat(1.0f);
        vec value = raw;
        if (s.softplus) softplus(raw, value, slope);
        return value;
    }
    void prefetch(int64_t t) const {
        __builtin_prefetch(at(s.u, t), 0, 2);
        __builtin_prefetch(at(s.delta, t), 0, 2);
        if (k == 0 && s.z.data) __builtin_prefetch(at(s.z, t), 0, 2);
    }
    void prefetch_gradients(int64_t t) const {
        prefetch(t);
        if (k == 0) __builtin_prefetch(at(s.out, t), 0, 2);
    }
    void prefetch_results(int64_t t) const {
        __builtin_prefetch(at(s.du, t), 1, 2);
        __builtin_prefetch(at(s.ddelta, t), 1, 2);
        if (k == 0 && s.z.data) __builtin_prefetch(at(s.dz, t), 1, 2);
    }
};

// B and C of one image as floats, (K, L, 2, N'): scan time, zeros in the padding.
template <typename T>
void gather_reads(const ScanArgs& s, const Plan& plan, int64_t b, float* reads) {
    std::memset(reads, 0, s.directions * plan.reads * sizeof(float));
    for (int64_t k = 0; k < s.directions; k++) {
        for (int64_t t = 0; t < s.length; t++, reads += 2 * plan.states) {
            const int64_t l = k == 0 ? t : s.length - 1 - t;
            const T *B = s.B.row<T>(k, b, l), *C = s.C.row<T>(k, b, l);
            for (int64_t n = 0; n < s.state; n++) {
                reads[n] = scalar(B[n]);
                reads[plan.states + n] = scalar(C[n]);
            }
        }
    }
}

// Visits the blocks of a group, every direction of each; tells the visitor who comes next so that it can prefetch.
template <typename T, typename Visit>
void for_each_block(const ScanArgs& s, const Plan& plan, int64_t b, int64_t group, Visit&& visit) {
    const int64_t begin = plan.first_block(group), end = plan.first_block(group + 1);
    for (int64_t index = begin; index < end; index++) {
        for (int64_t k = 0; k < s.directions; k++) {
            const bool last_k = k + 1 == s.directions;
            const int64_t next = std::min(index + last_k, end - 1);
            visit(Block<T>(s, plan, k, b, index), Block<T>(s, plan, last_k ? 0 : k + 1, b, next));
        }
    }
}

template <typename T>
void forward(const ScanArgs& s, const Plan& plan, int64_t b, int64_t group, float* reads, float* work) {
    float* A = work;                        // (N', W)
    float* h = A + plan.states * W;         // (N', W), between chunks
    float* steps = h + plan.states * W;     // (chunk, 2, W): Δ and x
    float* y = steps + plan.chunk * 2 * W;  // (L, W), natural order
    gather_reads<T>(s, plan, b, reads);

    for_each_block<T>(s, plan, b, group, [&](const Block<T>& block, const Block<T>& next) {
        const float* BC = reads + block.k * plan.reads;
        block.decay_rates(A);
        std::memset(h, 0, plan.states * W * sizeof(float));
        for (int64_t c = 0; c < plan.chunks; c++) {
            const int64_t start = c * plan.chunk, stop = std::min(start + plan.chunk, s.length);
            if (c > 0 && s.checkpoints)
                std::memcpy(s.checkpoints + plan.checkpoint(s, block.k, b, block.index, c), h,
                            plan.states * W * sizeof(float));
            for (int64_t t = start; t < stop; t++) {
                vec slope;
                const vec delta = block.delta(t, slope), u = load(block.at(s.u, t), block.lanes);
                float *step = steps + (t - start) * 2 * W, *y_t = y + block.natural(t) * W;
                put(step, delta);
                put(step + W, delta * u);
                put(y_t, (block.k == 0 ? vec{} : get(y_t)) + block.D * u);
            }
            for (int64_t n0 = 0; n0 < plan.states; n0 += NB) {
                vec state[NB];
                for (int n = 0; n < NB; n++) state[n] = get(h + (n0 + n) * W);
                for (int64_t t = start; t < stop; t++) {
                    const float *B = BC + t * 2 * plan.states + n0, *C = B + plan.states;
                    const float* step = steps + (t - start) * 2 * W;
                    const vec delta = get(step), x = get(step + W);
                    float* y_t = y + block.natural(t) * W;
                    vec even = get(y_t), odd{};
#pragma GCC unroll 8
                    for (int n = 0; n < NB; n++) {
                        const vec a = exp2(delta * get(A + (n0 + n) * W));
                        state[n] = a * state[n] + x * B[n];
                        (n % 2 ? odd : even) += state[n] * C[n];
                    }
                    put(y_t, even + odd);
                    if (n0 == 0) next.prefetch(t);
                    if (n0 == NB && block.k == 0) __builtin_prefetch(block.at(s.out, t), 1, 2);
                }
                for (int n = 0; n < NB; n++) put(h + (n0 + n) * W, state[n]);
            }
        }
        if (block.k + 1 < s.directions) return;
        for (int64_t l = 0; l < s.length; l++) {
            vec result = get(y + l * W);
            if (s.z.data) {
                const vec z = load(s.z.row<T>(0, b, l) + block.first, block.lanes);
                result *= z * sigmoid(z);
            }
            store(s.out.row<T>(0, b, l) + block.first, result, block.lanes);
        }
    });
}

// What the way back needs to know of each step, and what it finds out.
enum { DELTA, X, U, SLOPE, DDELTA, DX, STEP };

// The backward pass of one image and one group of blocks, block by block and direction by direction.
template <typename T>
struct Backward {
    const ScanArgs& s;
    const Plan& plan;
    int64_t b;
    float *reads, *dreads, *sums;  // B and C of the image; the gradients of both; dA, dD, dbias of the slice
    float* A;                      // (N', W)
    float* carry;                  // (N', W): a g of the first step of the later chunk
    float* steps;                  // (chunk, STEP, W)
    float* path;                   // (chunk, NB, 2, W): a_t and a_t h_{t-1}
    float *dy, *y, *gate;          // (L, W) each, natural order; y is rebuilt for the gate's gradient, gate is σ(z)

    static int64_t room(const ScanArgs& s, const Plan& plan) {
        return plan.states * 2 * W + plan.chunk * (STEP + 2 * NB) * W + 3 * s.length * W;
    }
    Backward(const ScanArgs& s, const Plan& plan, int64_t b, float* reads, float* dreads, float* sums, float* work)
        : s(s), plan(plan), b(b), reads(reads), dreads(dreads), sums(sums), A(work), carry(A + plan.states * W),
          steps(carry + plan.states * W), path(steps + plan.chunk * STEP * W), dy(path + plan.chunk * 2 * NB * W),
          y(dy + s.length * W), gate(y + s.length * W) {
        gather_reads<T>(s, plan, b, reads);
    }

    ALWAYS_INLINE void operator()(const Block<T>& block, const Block<T>& next) {
        if (block.k == 0) open_gate(block);
        block.decay_rates(A);
        std::memset(carry, 0, plan.states * W * sizeof(float));
        for (int64_t c = plan.chunks - 1; c >= 0; c--) {
            const int64_t start = c * plan.chunk, stop = std::min(start + plan.chunk, s.length);
            prepare(block, start, stop);
            for (int64_t n0 = 0; n0 < plan.states; n0 += NB) {
                way_there(block, next, c, start, stop, n0);
                way_back(block, start, stop, n0);
            }
            finish(block, start, stop);
        }
        if (s.z.data && block.k + 1 == s.directions) close_gate(block);
    }

    // dy = dout SiLU(z), the same for every direction: the gate follows their sum.
    ALWAYS_INLINE void open_gate(const Block<T>& block) {
        for (int64_t l = 0; l < s.length; l++) {
            vec dout = load(s.out.row<T>(0, b, l) + block.first, block.lanes);
            if (s.z.data) {
                const vec z = load(s.z.row<T>(0, b, l) + block.first, block.lanes), open = sigmoid(z);
                dout *= z * open;
                put(gate + l * W, open);
            }
            put(dy + l * W, dout);
            put(y + l * W, vec{});
        }
    }

    ALWAYS_INLINE void prepare(const Block<T>& block, int64_t start, int64_t stop) {
        for (int64_t t = start; t < stop; t++) {
            float *step = steps + (t - start) * STEP * W, *y_t = y + block.natural(t) * W;
            vec slope;
            const vec delta = block.delta(t, slope), u = load(block.at(s.u, t), block.lanes);
            put(step + DELTA * W, delta);
            put(step + X * W, delta * u);
            put(step + U * W, u);
            put(step + SLOPE * W, slope);
            put(step + DDELTA * W, vec{});
            put(step + DX * W, vec{});
            put(y_t, get(y_t) + block.D * u);
        }
    }

    // Rebuilds the states n0 … n0 + NB of a chunk; leaves the path behind, adds to y and dC.
    ALWAYS_INLINE void way_there(const Block<T>& block, const Block<T>& next, int64_t c, int64_t start, int64_t stop,
                                 int64_t n0) {
        vec h[NB];
        const int64_t before = plan.checkpoint(s, block.k, b, block.index, c) + n0 * W;
        for (int n = 0; n < NB; n++) h[n] = c == 0 ? vec{} : get(s.checkpoints + before + n * W);
        for (int64_t t = start; t < stop; t++) {
            const int64_t read = block.k * plan.reads + t * 2 * plan.states + n0;
            const float *B = reads + read, *C = B + plan.states, *step = steps + (t - start) * STEP * W;
            float *path_t = path + (t - start) * 2 * NB * W, *y_t = y + block.natural(t) * W;
            const vec delta = get(step + DELTA * W), x = get(step + X * W), dy_t = get(dy + block.natural(t) * W);
            vec even{}, odd{}, product[NB];
#pragma GCC unroll 8
            for (int n = 0; n < NB; n++) {
                const vec a = exp2(delta * get(A + (n0 + n) * W));
                const vec kept = a * h[n];
                put(path_t + 2 * n * W, a);
                put(path_t + (2 * n + 1) * W, kept);
                h[n] = kept + x * B[n];
                (n % 2 ? odd : even) += h[n] * C[n];
                product[n] = h[n] * dy_t;
            }
            put(y_t, get(y_t) + (even + odd));
            add_lane_sums(product, dread(block, t, n0) + plan.states);
            if (n0 == 0) next.prefetch_gradients(t);
            if (n0 == NB) block.prefetch_results(t);
        }
    }

    // From the last step of a chunk to its first; adds to dB, dx, dΔ and dA.
    ALWAYS_INLINE void way_back(const Block<T>& block, int64_t start, int64_t stop, int64_t n0) {
        vec carried[NB], dA[NB];  // a_{t+1} g_{t+1}; the sum over the chunk
        for (int n = 0; n < NB; n++) carried[n] = get(carry + (n0 + n) * W), dA[n] = vec{};
        for (int64_t t = stop - 1; t >= start; t--) {
            const int64_t read = block.k * plan.reads + t * 2 * plan.states + n0;
            const float *B = reads + read, *C = B + plan.states, *path_t = path + (t - start) * 2 * NB * W;
            float* step = steps + (t - start) * STEP * W;
            const vec delta = get(step + DELTA * W), x = get(step + X * W), dy_t = get(dy + block.natural(t) * W);
            vec ddelta = get(step + DDELTA * W), dx = get(step + DX * W), product[NB];
#pragma GCC unroll 8
            for (int n = 0; n < NB; n++) {
                const vec g = carried[n] + dy_t * C[n];
                const vec q = g * get(path_t + (2 * n + 1) * W);
                product[n] = g * x;
                dx += g * B[n];
                ddelta += q * get(A + (n0 + n) * W);
                dA[n] += q * delta;
                carried[n] = g * get(path_t + 2 * n * W);
            }
            put(step + DDELTA * W, ddelta);
            put(step + DX * W, dx);
            add_lane_sums(product, dread(block, t, n0));
        }
        for (int n = 0; n < NB; n++) {
            float* sum = sums_of(block) + (n0 + n) * W;
            put(carry + (n0 + n) * W, carried[n]);
            put(sum, get(sum) + dA[n]);
        }
    }

    // du and ddelta of a chunk; dD and dbias.
    ALWAYS_INLINE void finish(const Block<T>& block, int64_t start, int64_t stop) {
        vec dD{}, dbias{};
        for (int64_t t = start; t < stop; t++) {
            const float* step = steps + (t - start) * STEP * W;
            const vec dy_t = get(dy + block.natural(t) * W), u = get(step + U * W), dx = get(step + DX * W);
            // the decay rates are A log2(e), so their sum is log2(e) too large
            const vec ddelta = (get(step + DDELTA * W) * LN2 + dx * u) * get(step + SLOPE * W);
            store(block.at(s.ddelta, t), ddelta, block.lanes);
            store(block.at(s.du, t), dx * get(step + DELTA * W) + block.D * dy_t, block.lanes);
            dD += dy_t * u;
            dbias += ddelta;
        }
        float* sum = sums_of(block) + plan.states * W;
        put(sum, get(sum) + dD);
        put(sum + W, get(sum + W) + dbias);
    }

    ALWAYS_INLINE void close_gate(const Block<T>& block) {
        for (int64_t l = 0; l < s.length; l++) {
            const vec dout = load(s.out.row<T>(0, b, l) + block.first, block.lanes);
            const vec z = load(s.z.row<T>(0, b, l) + block.first, block.lanes), open = get(gate + l * W);
            // SiLU'(z) = σ(z) (1 + z (1 - σ(z)))
            const vec dz = dout * get(y + l * W) * open * (1.0f + z * (1.0f - open));
            store(s.dz.row<T>(0, b, l) + block.first, dz, block.lanes);
        }
    }

    float* dread(const Block<T>& block, int64_t t, int64_t n0) const {
        return dreads + block.k * s.batch * plan.reads + t * 2 * plan.states + n0;
    }
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
void run_forward(const ScanArgs& s) {
    const Plan plan(s);
    const int64_t reads = s.directions * plan.reads;
    const int64_t work = plan.states * 2 * W + plan.chunk * 2 * W + s.length * W;
#pragma omp parallel for num_threads(s.threads) collapse(2) schedule(dynamic)
    for (int64_t b = 0; b < s.batch; b++) {
        for (int64_t group = 0; group < plan.groups; group++) {
            static thread_local Scratch scratch;
            const FlushDenormals flush;
            float* memory = scratch.room(work + reads);
            forward<T>(s, plan, b, group, memory + work, memory);
        }
    }
}

template <typename T>
void run_backward(const ScanArgs& s) {
    const Plan plan(s);
    const int64_t reads = s.directions * plan.reads;
    const int64_t work = Backward<T>::room(s, plan);
    const int64_t per_slice = s.directions * plan.blocks * plan.sums, per_group = s.batch * reads;
    float *sums = s.partial, *dreads = sums + plan.slices * per_slice;
#pragma omp parallel for num_threads(s.threads) collapse(2) schedule(dynamic)
    for (int64_t slice = 0; slice < plan.slices; slice++) {
        for (int64_t group = 0; group < plan.groups; group++) {
            static thread_local Scratch scratch;
            const FlushDenormals flush;
            float* memory = scratch.room(work + reads);
            // the blocks of this task, in every direction
            const int64_t begin = plan.first_block(group), end = plan.first_block(group + 1);
            for (int64_t k = 0; k < s.directions; k++)
                std::memset(sums + slice * per_slice + (k * plan.blocks + begin) * plan.sums, 0,
                            (end - begin) * plan.sums * sizeof(float));
            for (int64_t b = plan.first_image(slice); b < plan.first_image(slice + 1); b++) {
                float* dreads_b = dreads + group * per_group + b * plan.reads;
                for (int64_t k = 0; k < s.directions; k++)
                    std::memset(dreads_b + k * s.batch * plan.reads, 0, plan.reads * sizeof(float));
                Backward<T> pass(s, plan, b, memory + work, dreads_b, sums + slice * per_slice, memory);
                for_each_block<T>(s, plan, b, group, pass);
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

void scan_forward(const ScanArgs* s) { s->bf16 ? run_forward<bfloat16>(*s) : run_forward<float>(*s); }

void scan_backward(const ScanArgs* s) { s->bf16 ? run_backward<bfloat16>(*s) : run_backward<float>(*s); }

// exp, for tests of its accuracy and as the yardstick of benchmarks.
void vector_exp(const float* x, float* y, int64_t size) {
    for (int64_t i = 0; i < size; i += W) {
        const int lanes = int(std::min<int64_t>(W, size - i));
        store(y + i, exp(load(x + i, lanes)), lanes);
    }
}
}
