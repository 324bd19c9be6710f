// How tensors lie in memory: streams with strides and rows of contiguous channels; the loops over them, the cut of
// the work into tasks, scratch memory.
#pragma once

#include <cstdlib>
#include <new>

#include "simd.h"

namespace simd {

// A tensor of the caller, (K, B, L, features): strides in elements, features contiguous. `data` is null where the
// tensor does not exist.
struct Stream {
    void* data;
    int64_t k, b, l;

    template <typename T>
    T* row(int64_t direction, int64_t image, int64_t step) const {
        return static_cast<T*>(data) + direction * k + image * b + step * l;
    }
};

// The rows of a tensor as a pass iterates over them, from the first step of its time or backwards from the last.
template <typename T>
struct Rows {
    T* first;
    int64_t stride;

    T* operator[](int64_t t) const { return first + t * stride; }
    // Into the L2 cache; never an error, wherever it points.
    void prefetch(int64_t t, int64_t further = 0) const { __builtin_prefetch(first + t * stride + further, 0, 2); }
};

// The steps t … t + 3 as four, or t alone as a vector.
template <typename V, typename T>
ALWAYS_INLINE inline V load(const Rows<T>& rows, int64_t t, int lanes) {
    if constexpr (sizeof(V) == sizeof(vec))
        return load(rows[t], lanes);
    else
        return each([&](int i) { return load(rows[t + i], lanes); });
}
template <typename T>
ALWAYS_INLINE inline void store(const Rows<T>& rows, int64_t t, vec x, int lanes) {
    store(rows[t], x, lanes);
}
template <typename T>
ALWAYS_INLINE inline void store(const Rows<T>& rows, int64_t t, four x, int lanes) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) store(rows[t + i], x.of[i], lanes);
}

// Calls f(t, V{}) for all steps: V is four, and vec for the last ones.
template <typename F>
ALWAYS_INLINE inline void by_fours(int64_t start, int64_t stop, F f) {
    int64_t t = start;
    for (; t + 4 <= stop; t += 4) f(t, four{});
    for (; t < stop; t++) f(t, vec{});
}

// How the work is cut into tasks: slices of the batch times groups of at least `smallest` channel blocks. Sizes alone
// decide, and partial sums are added in the order of slices and groups, so no result depends on the number of threads.
struct Tasks {
    int64_t batch, blocks, slices, groups;

    Tasks(int64_t batch, int64_t dim, int64_t smallest)
        : batch(batch), blocks((dim + W - 1) / W), slices(batch < 32 ? batch : 32), groups((64 + batch - 1) / batch) {
        if (groups > blocks / smallest) groups = blocks / smallest;
        if (groups < 1) groups = 1;
    }
    int64_t first_image(int64_t slice) const { return slice * batch / slices; }
    int64_t first_block(int64_t group) const { return group * blocks / groups; }
};

// Aligned memory that one thread reuses from call to call.
class Scratch {
   public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { std::free(memory_); }

    // Room for `floats` floats, aligned to a cache line; what was there is lost.
    float* room(int64_t floats) {
        if (floats > size_) {
            std::free(memory_);
            memory_ = std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
            if (memory_ == nullptr) throw std::bad_alloc();
            size_ = floats;
        }
        return static_cast<float*>(memory_);
    }

   private:
    void* memory_ = nullptr;
    int64_t size_ = 0;
};

// Denormal numbers count as zero while this lives: a state that decays below 1e-38 must not slow the loop down.
class FlushDenormals {
   public:
#if defined(__SSE__)
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(saved_); }

   private:
    unsigned saved_;
#endif
};

// Visits the vectors of a row: visit(first channel, lanes).
template <typename Visit>
inline void for_each_vector(int64_t dim, Visit&& visit) {
    int64_t c = 0;
    for (; c + W <= dim; c += W) visit(c, W);
    if (c < dim) visit(c, int(dim - c));
}

inline float lane_sum(vec x) {
    float sum = 0.0f;
    for (int i = 0; i < W; i++) sum += x[i];
    return sum;
}

inline float sum_of_squares(const float* x, int64_t dim) {
    vec squares{};
    for_each_vector(dim, [&](int64_t c, int lanes) {
        const vec v = load(x + c, lanes);
        squares += v * v;
    });
    return lane_sum(squares);
}

// How many of the indices lie outside [0, end): what is read from memory is checked before it is an address.
inline int64_t outside(const int64_t* index, int64_t count, int64_t end) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) found += index[i] < 0 || index[i] >= end;
    return found;
}

}  // namespace simd
