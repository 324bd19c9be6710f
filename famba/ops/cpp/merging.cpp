// The merging of matched tokens, for CPUs, and its gradient.
//
// Tokens are rows of contiguous channels. The work is cut by the sizes alone and sums are taken in a fixed order: no
// result depends on the number of threads. See tokens.py for the interface.

#include <algorithm>

#include "tensors.h"

using namespace simd;

struct GroupArgs {
    int64_t batch, tokens, r;
    const int64_t *places, *source, *target, *cls;  // (B, T - r), (B, r), (B, r), (B) or null
    int64_t *group, *cls_after;                     // (B, T) rows of the flattened result, (B)
    float* size;                                    // (B, T - r)
};

struct MergeArgs {
    int64_t batch, tokens, r, dim, bf16, threads;
    const int64_t *places, *source, *group;
    const float* size;
    void *x, *out;  // (B, T, C) and (B, T - r, C); backward they are gradients, read from `out` and written to `x`
};

namespace {

// The remaining rows; the fused ones are added to those that they join; every group is divided by its size.
template <typename T>
void merge(const MergeArgs& s, int64_t b) {
    const int64_t left = s.tokens - s.r;
    const T* x = static_cast<const T*>(s.x) + b * s.tokens * s.dim;
    T* out = static_cast<T*>(s.out);
    for (int64_t i = b * left; i < (b + 1) * left; i++)
        std::memcpy(out + i * s.dim, x + s.places[i] * s.dim, s.dim * sizeof(T));
    for (int64_t i = b * s.r; i < (b + 1) * s.r; i++) {
        const T* from = x + s.source[i] * s.dim;
        T* to = out + s.group[b * s.tokens + s.source[i]] * s.dim;
        for_each_vector(s.dim, [&](int64_t c, int lanes) {
            store(to + c, load(to + c, lanes) + load(from + c, lanes), lanes);
        });
    }
    for (int64_t i = b * left; i < (b + 1) * left; i++) {
        if (s.size[i] == 1.0f) continue;
        T* to = out + i * s.dim;
        for_each_vector(s.dim, [&](int64_t c, int lanes) { store(to + c, load(to + c, lanes) / s.size[i], lanes); });
    }
}

// Every token's share of its group's gradient.
template <typename T>
void share(const MergeArgs& s, int64_t row) {
    const float size = s.size[s.group[row]];
    const T* from = static_cast<const T*>(s.out) + s.group[row] * s.dim;
    T* to = static_cast<T*>(s.x) + row * s.dim;
    if (size == 1.0f) {
        std::memcpy(to, from, s.dim * sizeof(T));
    } else {
        for_each_vector(s.dim, [&](int64_t c, int lanes) { store(to + c, load(from + c, lanes) / size, lanes); });
    }
}

}  // namespace

// Each returns 0; or 1, if an index leads outside of its sequence, and then no such index has been used.
extern "C" {

// Where each token goes, how many meet there, and where the class token then stands. Every token is one of the places
// or a source, and every target one of the places.
int group_tokens(const GroupArgs* args) {
    const GroupArgs& s = *args;
    const int64_t left = s.tokens - s.r;
    if (outside(s.places, s.batch * left, s.tokens) || outside(s.source, s.batch * s.r, s.tokens) ||
        outside(s.target, s.batch * s.r, s.tokens) || (s.cls && outside(s.cls, s.batch, s.tokens)))
        return 1;
    std::fill(s.size, s.size + s.batch * left, 1.0f);
    std::fill(s.group, s.group + s.batch * s.tokens, -1);
    for (int64_t b = 0; b < s.batch; b++) {
        int64_t* group = s.group + b * s.tokens;
        for (int64_t i = b * left; i < (b + 1) * left; i++) group[s.places[i]] = i;
        for (int64_t i = b * s.r; i < (b + 1) * s.r; i++) {
            const int64_t joined = group[s.target[i]];
            if (joined < 0) return 1;
            group[s.source[i]] = joined;
            s.size[joined] += 1.0f;
        }
        if (s.cls) s.cls_after[b] = group[s.cls[b]] - b * left;
    }
    return outside(s.group, s.batch * s.tokens, s.batch * left) > 0;
}

int merge_forward(const MergeArgs* args) {
    const MergeArgs& s = *args;
    const int64_t left = s.tokens - s.r;
    if (outside(s.places, s.batch * left, s.tokens) || outside(s.source, s.batch * s.r, s.tokens) ||
        outside(s.group, s.batch * s.tokens, s.batch * left))
        return 1;
#pragma omp parallel for num_threads(s.threads) schedule(static)
    for (int64_t b = 0; b < s.batch; b++) s.bf16 ? merge<bfloat16>(s, b) : merge<float>(s, b);
    return 0;
}

int merge_backward(const MergeArgs* args) {
    const MergeArgs& s = *args;
    if (outside(s.group, s.batch * s.tokens, s.batch * (s.tokens - s.r))) return 1;
#pragma omp parallel for num_threads(s.threads) schedule(static)
    for (int64_t row = 0; row < s.batch * s.tokens; row++) s.bf16 ? share<bfloat16>(s, row) : share<float>(s, row);
    return 0;
}
}
