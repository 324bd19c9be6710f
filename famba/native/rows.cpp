// What a block does to its tokens besides mixing them, for CPUs: the RMS norm, the matching of similar tokens and their
// merging. See kernels.py for the interface.
//
// Tokens are rows of contiguous channels. The work is cut by the sizes alone and sums are taken in a fixed order: no
// result depends on the number of threads.

#include <algorithm>
#include <limits>
#include <vector>

#include "simd.h"

using namespace simd;

struct NormArgs {
    int64_t rows, dim, slices, threads, bf16;
    double eps;
    const float *x, *weight;  // backward: x is the sum
    const void* added;        // or null; of bfloat16 if so said; backward: float, the gradient of the sum
    float* total;             // x + added, written if something is added
    float *out, *rstd;        // forward: written; backward: `out` is the gradient that arrives, `rstd` is read
    float* partial;           // (slices, C), backward: each slice of the rows sums dweight for itself
    float *dx, *dweight;
};

struct MatchArgs {
    int64_t batch, tokens, dim, r, threads;
    const float* metric;                     // (B, T, C)
    const int64_t* cls;                      // (B) or null
    int64_t *source, *target, *kept, *tome;  // (B, r), (B, r), (B, T - r), (B, T - r)
};

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

template <typename T>
void norm_rows(const NormArgs& s) {
#pragma omp parallel for num_threads(s.threads) schedule(static)
    for (int64_t row = 0; row < s.rows; row++) {
        const float* x = s.x + row * s.dim;
        if (s.added) {
            const T* added = static_cast<const T*>(s.added) + row * s.dim;
            float* total = s.total + row * s.dim;
            for_each_vector(s.dim, [&](int64_t c, int lanes) {
                store(total + c, load(x + c, lanes) + load(added + c, lanes), lanes);
            });
            x = total;
        }
        float *out = s.out + row * s.dim, rstd = 1.0f / std::sqrt(sum_of_squares(x, s.dim) / s.dim + float(s.eps));
        for_each_vector(s.dim, [&](int64_t c, int lanes) {
            store(out + c, load(x + c, lanes) * rstd * load(s.weight + c, lanes), lanes);
        });
        s.rstd[row] = rstd;
    }
}

// With n = x / rms: dweight += dout n,  dx = (dout weight - n mean(dout weight n)) / rms + dtotal
void norm_backward_slice(const NormArgs& s, int64_t begin, int64_t end, float* dweight) {
    std::memset(dweight, 0, s.dim * sizeof(float));
    for (int64_t row = begin; row < end; row++) {
        const float *x = s.x + row * s.dim, *dout = s.out + row * s.dim, rstd = s.rstd[row];
        float* dx = s.dx + row * s.dim;
        vec along{};
        for_each_vector(s.dim, [&](int64_t c, int lanes) {
            const vec dn = load(dout + c, lanes) * (load(x + c, lanes) * rstd);
            store(dweight + c, load(dweight + c, lanes) + dn, lanes);
            along += dn * load(s.weight + c, lanes);
        });
        const float mean = lane_sum(along) / float(s.dim);
        const float* dtotal = s.added ? static_cast<const float*>(s.added) + row * s.dim : nullptr;
        for_each_vector(s.dim, [&](int64_t c, int lanes) {
            const vec n = load(x + c, lanes) * rstd, rest = dtotal ? load(dtotal + c, lanes) : vec{};
            store(dx + c, (load(dout + c, lanes) * load(s.weight + c, lanes) - n * mean) * rstd + rest, lanes);
        });
    }
}

// Every even token's most similar odd token, and the r strongest of these links: one image after the other. The
// similarity is (a·b) (1/|a|) (1/|b|), rounded in this order; see `match` in fusion.py, which says why.
class Matching {
   public:
    static constexpr int ROWS = 6;  // evens at once
    static constexpr float SMALLEST = std::numeric_limits<float>::min();     // no norm is 0
    static constexpr float UNKNOWN = std::numeric_limits<float>::lowest();  // of what is not finite: last, but not -inf

    Matching(const MatchArgs& s, float* memory)
        : s(s), evens((s.tokens + 1) / 2), odds(s.tokens / 2), rows(padded(evens, ROWS)), columns(padded(odds, W)),
          even(memory), odd(even + rows * s.dim), allowed(odd + columns * s.dim), strength(allowed + columns),
          even_scale(strength + rows), odd_scale(even_scale + rows), best(rows), edges(evens), fused(evens) {}

    static int64_t room(const MatchArgs& s) {
        const int64_t rows = padded((s.tokens + 1) / 2, ROWS), columns = padded(s.tokens / 2, W);
        return (rows + columns) * (s.dim + 2);
    }

    void operator()(int64_t b) {
        const int64_t cls = s.cls ? s.cls[b] : -1;
        arrange(s.metric + b * s.tokens * s.dim);
        for (int64_t o = 0; o < columns; o++) allowed[o] = o < odds && 2 * o + 1 != cls ? 0.0f : -INFINITY;
        for (int64_t e = 0; e < rows; e += ROWS) link(e);
        if (cls >= 0 && cls % 2 == 0) strength[cls / 2] = -INFINITY;
        for (int64_t e = 0; e < evens; e++) edges[e] = e;
        std::partial_sort(edges.begin(), edges.begin() + (s.cls ? s.r : evens), edges.end(), [&](int64_t a, int64_t b) {
            return strength[a] > strength[b] || (strength[a] == strength[b] && a < b);
        });
        write(b);
    }

   private:
    static int64_t padded(int64_t n, int64_t block) { return (n + block - 1) / block * block; }

    // Evens by rows (rows, C), odds by columns (C, columns), zeros in the padding; and 1 / norm of each.
    void arrange(const float* x) {
        std::memset(even, 0, (rows + columns) * s.dim * sizeof(float));
        std::memset(even_scale, 0, (rows + columns) * sizeof(float));
        for (int64_t t = 0; t < s.tokens; t++) {
            const float squares = sum_of_squares(x + t * s.dim, s.dim);
            (t % 2 ? odd_scale : even_scale)[t / 2] =
                std::isfinite(squares) ? 1.0f / std::max(std::sqrt(squares), SMALLEST) : NAN;
        }
        for (int64_t e = 0; e < evens; e++) std::memcpy(even + e * s.dim, x + 2 * e * s.dim, s.dim * sizeof(float));
        for (int64_t o = 0; o < odds; o += W)  // few enough rows at a time to stay in the L1 cache
            for (int64_t c = 0; c < s.dim; c++)
                for (int64_t t = 2 * o + 1; t < std::min(2 * (o + W), s.tokens); t += 2)
                    odd[c * columns + t / 2] = x[t * s.dim + c];
    }

    // The most similar odd of each of ROWS evens, the first of equals; `allowed` is -inf where there is none, else 0.
    void link(int64_t e) {
        vec most[ROWS];
        ivec place[ROWS] = {};  // in units of vectors
        for (int i = 0; i < ROWS; i++) most[i] = splat(-INFINITY);
        int64_t o = 0;
        for (; o + W < columns; o += 2 * W) compare<2>(e, o, most, place);
        if (o < columns) compare<1>(e, o, most, place);
        for (int i = 0; i < ROWS; i++) {
            strength[e + i] = -INFINITY, best[e + i] = 0;
            for (int lane = 0; lane < W; lane++) {
                const int64_t o = place[i][lane] * W + lane;
                if (most[i][lane] > strength[e + i] || (most[i][lane] == strength[e + i] && o < best[e + i]))
                    strength[e + i] = most[i][lane], best[e + i] = o;
            }
        }
    }

    // ROWS evens with VECTORS vectors of odds, whose products stay in registers.
    template <int VECTORS>
    ALWAYS_INLINE void compare(int64_t e, int64_t o, vec (&most)[ROWS], ivec (&place)[ROWS]) {
        vec sums[ROWS][VECTORS] = {};
        for (int64_t c = 0; c < s.dim; c++) {
            const float *to = odd + c * columns + o, *from = even + e * s.dim + c;
            const vec first = get(to), last = get(to + (VECTORS - 1) * W);
#pragma GCC unroll 6
            for (int i = 0; i < ROWS; i++) {
                sums[i][0] += first * from[i * s.dim];
                if (VECTORS == 2) sums[i][VECTORS - 1] += last * from[i * s.dim];
            }
        }
        for (int v = 0; v < VECTORS; v++)
            for (int i = 0; i < ROWS; i++) {
                const vec cosine = sums[i][v] * even_scale[e + i] * get(odd_scale + o + v * W);
                const vec similarity = (cosine == cosine ? cosine : splat(UNKNOWN)) + get(allowed + o + v * W);
                const ivec closer = similarity > most[i];
                most[i] = closer ? similarity : most[i];
                place[i] = closer ? ivec{} + int32_t(o / W + v) : place[i];
            }
    }

    void write(int64_t b) {
        const int64_t left = s.tokens - s.r, unfused = evens - s.r;
        std::fill(fused.begin(), fused.end(), 0);
        for (int64_t i = 0; i < s.r; i++) {
            s.source[b * s.r + i] = edges[i] * 2;
            s.target[b * s.r + i] = best[edges[i]] * 2 + 1;
            fused[edges[i]] = 1;
        }
        int64_t *kept = s.kept + b * left, *tome = s.tome + b * left;
        for (int64_t t = 0, i = 0; t < s.tokens; t++)
            if (t % 2 == 1 || !fused[t / 2]) kept[i++] = t;
        // ToMe leaves the unfused evens by falling similarity unless a class token must stay in front (merge.py:70)
        if (s.cls) std::sort(edges.begin() + s.r, edges.end());
        for (int64_t i = 0; i < unfused; i++) tome[i] = edges[s.r + i] * 2;
        for (int64_t o = 0; o < odds; o++) tome[unfused + o] = o * 2 + 1;
    }

    const MatchArgs& s;
    const int64_t evens, odds, rows, columns;
    float *even, *odd, *allowed, *strength, *even_scale, *odd_scale;
    std::vector<int64_t> best, edges;
    std::vector<char> fused;
};

// The kept rows; the fused ones added to those that they join; every group divided by its size.
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

// How many of the indices lie outside [0, end): what is read from memory is checked before it is an address.
int64_t outside(const int64_t* index, int64_t count, int64_t end) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) found += index[i] < 0 || index[i] >= end;
    return found;
}

}  // namespace

// Each returns 0; or 1, if an index leads outside of its sequence, and then no such index has been used.
extern "C" {

// total = x + added, out = total / rms(total) * weight, row by row.
int norm_forward(const NormArgs* args) {
    args->bf16 ? norm_rows<bfloat16>(*args) : norm_rows<float>(*args);
    return 0;
}

int norm_backward(const NormArgs* args) {
    const NormArgs& s = *args;
#pragma omp parallel for num_threads(s.threads) schedule(static)
    for (int64_t i = 0; i < s.slices; i++)
        norm_backward_slice(s, i * s.rows / s.slices, (i + 1) * s.rows / s.slices, s.partial + i * s.dim);
    for (int64_t c = 0; c < s.dim; c++) {
        float sum = 0.0f;
        for (int64_t i = 0; i < s.slices; i++) sum += s.partial[i * s.dim + c];
        s.dweight[c] = sum;
    }
    return 0;
}

int match_tokens(const MatchArgs* args) {
    const MatchArgs& s = *args;
    if (s.cls && outside(s.cls, s.batch, s.tokens)) return 1;
#pragma omp parallel for num_threads(s.threads) schedule(static)
    for (int64_t b = 0; b < s.batch; b++) {
        static thread_local Scratch scratch;
        Matching(s, scratch.room(Matching::room(s)))(b);
    }
    return 0;
}

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
