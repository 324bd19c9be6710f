// The matching of similar tokens, for CPUs.
//
// Tokens are rows of contiguous channels. The work is cut by the sizes alone and sums are taken in a fixed order: no
// result depends on the number of threads. See tokens.py for the interface.

#include <algorithm>
#include <limits>
#include <vector>

#include "tensors.h"

using namespace simd;

struct MatchArgs {
    int64_t batch, tokens, dim, r, threads;
    const float* metric;                     // (B, T, C)
    const int64_t* cls;                      // (B) or null
    int64_t *source, *target, *kept, *tome;  // (B, r), (B, r), (B, T - r), (B, T - r)
};

namespace {

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

}  // namespace

// Returns 0; or 1, if an index leads outside of its sequence, and then no such index has been used.
extern "C" {

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
}
