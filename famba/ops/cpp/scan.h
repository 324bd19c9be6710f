// What both passes of the selective scan share: the arguments, the plan of the work, and how a block lies in memory.
#pragma once

#include <algorithm>

#include "tensors.h"

using namespace simd;

struct ScanArgs {
    int64_t directions, batch, length, dim, state;
    int64_t bf16, softplus, threads;
    Stream u, delta, B, C, z, out;  // forward: `out` is written; backward: it is the gradient that arrives
    Stream y;                       // Σ_k y_k before the gate, written by the forward pass and read by the backward one
    Stream recomputed_out;          // backward: `out` as the forward pass has written it, or null
    const float *A, *D, *bias;      // (K, D, N), (K, D) or null, (K, D) or null
    float* checkpoints;             // see scan_sizes; null where no gradient will be asked for
    float* partial;                 // backward: see scan_sizes
    Stream du, ddelta, dB, dC, dz;
    float *dA, *dD, *dbias;
};

// Steps of a chunk at most. a_t and a_t h_{t-1} of so many take 448 KiB at 512 bits, half of that processor's L2 cache,
// and a quarter of it at 256 bits; what is saved between the passes is the same everywhere.
constexpr int64_t LONGEST_CHUNK = 448;
constexpr int64_t SMALLEST_GROUP = W < 16 ? 16 / W : 1;  // blocks: each group has a dB and a dC of its own

struct Plan : Tasks {
    int64_t states;         // N rounded up to whole register blocks
    int64_t chunk, chunks;  // steps of time
    int64_t sums;           // floats per (slice, k, block): dA, dD, dbias
    int64_t reads;          // floats per (k, b): dB and dC, interleaved per step

    explicit Plan(const ScanArgs& s) : Tasks(s.batch, s.dim, SMALLEST_GROUP) {
        states = (s.state + NB - 1) / NB * NB;
        chunks = std::max<int64_t>(1, (s.length + LONGEST_CHUNK - 1) / LONGEST_CHUNK);
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
    int64_t k, b, index, first;
    int lanes;
    const float* A;  // (N', W), see decay_rates
    vec D, bias, fastest;  // fastest: the largest |A'| of each channel

    Block(const ScanArgs& s, const Plan& plan, const float* rates, int64_t k, int64_t b, int64_t index)
        : s(s), k(k), b(b), index(index), first(index * W), lanes(int(std::min<int64_t>(W, s.dim - first))),
          A(rates + (k * plan.blocks + index) * plan.states * W),
          D(s.D ? load(s.D + k * s.dim + first, lanes) : vec{}),
          bias(s.bias ? load(s.bias + k * s.dim + first, lanes) : vec{}), fastest{} {
        for (int64_t n = 0; n < plan.states; n++) fastest = max(fastest, abs(get(A + n * W)));
    }

    Rows<T> rows(const Stream& x) const {
        return k == 0 ? Rows<T>{x.row<T>(k, b, 0) + first, x.l}
                      : Rows<T>{x.row<T>(k, b, s.length - 1) + first, -x.l};
    }
    // The same for what the kernel stores of the block, (L, W) in natural order.
    Rows<float> rows(float* x) const {
        return k == 0 ? Rows<float>{x, W} : Rows<float>{x + (s.length - 1) * W, -W};
    }
    // Whether the powers of all decays are moderate, see exp2_of_product; `largest`: |Δ| over the steps in question.
    bool moderate(vec largest) const {
        const ivec within = largest * fastest <= LARGEST_POWER;
        int32_t all = -1;
        for (int i = 0; i < W; i++) all &= within[i];
        return all;
    }
    template <typename V>
    ALWAYS_INLINE V delta(V read, V& slope) const {
        const V raw = read + bias;
        V value = raw;
        slope = V{} + 1.0f;
        if (s.softplus) softplus(raw, value, slope);
        return value;
    }
};

// A log2(e) of all blocks, (K, blocks, N', W), zeros in the padding: the decay is exp2(Δ A').
inline const float* decay_rates(const ScanArgs& s, const Plan& plan, Scratch& scratch) {
    const int64_t per_block = plan.states * W;
    float* rates = scratch.room(s.directions * plan.blocks * per_block);
#pragma omp parallel for num_threads(s.threads) collapse(2) schedule(static)
    for (int64_t k = 0; k < s.directions; k++) {
        for (int64_t block = 0; block < plan.blocks; block++) {
            float* to = rates + (k * plan.blocks + block) * per_block;
            for (int64_t n = 0; n < plan.states; n++)
                for (int64_t d = block * W; d < (block + 1) * W; d++)
                    *to++ = n < s.state && d < s.dim ? s.A[(k * s.dim + d) * s.state + n] * LOG2E : 0.0f;
        }
    }
    return rates;
}

// B and C of one image as floats, (K, L, 2, N'): scan time, zeros in the padding.
template <typename T>
void gather_reads(const ScanArgs& s, const Plan& plan, int64_t b, float* reads) {
    for (int64_t k = 0; k < s.directions; k++) {
        for (int64_t t = 0; t < s.length; t++) {
            const int64_t l = k == 0 ? t : s.length - 1 - t;
            for (const T* from : {s.B.row<T>(k, b, l), s.C.row<T>(k, b, l)}) {
                for (int64_t n = 0; n < plan.states; n += W) {
                    const int given = int(std::min<int64_t>(W, std::max<int64_t>(0, s.state - n)));
                    store(reads + n, load(from + n, given), int(std::min<int64_t>(W, plan.states - n)));
                }
                reads += plan.states;
            }
        }
    }
}

// Visits the blocks of a group, every direction of each; passes the visitor the next block too, so that it can prefetch.
template <typename T, typename Visit>
void for_each_block(const ScanArgs& s, const Plan& plan, const float* rates, int64_t b, int64_t group, Visit&& visit) {
    const int64_t begin = plan.first_block(group), end = plan.first_block(group + 1);
    for (int64_t index = begin; index < end; index++) {
        for (int64_t k = 0; k < s.directions; k++) {
            const bool last_k = k + 1 == s.directions;
            const int64_t next = std::min(index + last_k, end - 1);
            visit(Block<T>(s, plan, rates, k, b, index), Block<T>(s, plan, rates, last_k ? 0 : k + 1, b, next));
        }
    }
}
