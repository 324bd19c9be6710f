// Vectors of W floats, W = 16, 8 or 4 as the compiler's flags allow (AVX-512, AVX2, anything else), and the few
// operations on them that the kernels need. Everything is float32 inside; bfloat16 exists only at loads and stores.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

// For the parts of a pass: what they share then lives in registers, not behind `this`.
#define ALWAYS_INLINE __attribute__((always_inline))

namespace simd {

#if defined(__AVX512F__)
constexpr int W = 16;
constexpr int NB = 8;  // states in registers at once
#elif defined(__AVX2__)
constexpr int W = 8;
constexpr int NB = 4;
#else
constexpr int W = 4;
constexpr int NB = 4;
#endif

typedef float vec __attribute__((vector_size(W * sizeof(float))));
typedef int32_t ivec __attribute__((vector_size(W * sizeof(int32_t))));
typedef uint32_t uvec __attribute__((vector_size(W * sizeof(uint32_t))));
typedef uint16_t hvec __attribute__((vector_size(W * sizeof(uint16_t))));

struct bfloat16 {
    uint16_t bits;
};

inline vec splat(float x) { return vec{} + x; }

constexpr float LARGEST_POWER = 126.0f;  // of 2, whose reciprocal is a normal number too

#if defined(__AVX512F__)
// 2^(i/32)
struct Roots {
    alignas(64) float of[32];
    Roots() {
        for (int i = 0; i < 32; i++) of[i] = float(std::exp2(i / 32.0));
    }
};
inline const Roots roots;
#endif

// The larger and the smaller of two lanes; y where x is no number, so a y that is none stays none.
#if defined(__AVX512F__)
inline vec max(vec x, vec y) { return (vec)_mm512_max_ps((__m512)x, (__m512)y); }
inline vec min(vec x, vec y) { return (vec)_mm512_min_ps((__m512)x, (__m512)y); }
#elif defined(__AVX2__)
inline vec max(vec x, vec y) { return (vec)_mm256_max_ps((__m256)x, (__m256)y); }
inline vec min(vec x, vec y) { return (vec)_mm256_min_ps((__m256)x, (__m256)y); }
#else
inline vec max(vec x, vec y) { return x > y ? x : y; }
inline vec min(vec x, vec y) { return x < y ? x : y; }
#endif

inline vec abs(vec x) { return (vec)((ivec)x & 0x7fffffff); }
inline vec where_negative(vec x, vec then, vec otherwise) { return x < 0.0f ? then : otherwise; }

// Four vectors that take every step of a formula side by side. One alone waits four or five cycles for a multiply-add,
// and a processor that looks a few dozen instructions ahead finds little else to do meanwhile.
struct four {
    vec of[4];

    four() = default;
    four(vec x) : of{x, x, x, x} {}
    four(float x) : four(splat(x)) {}
};
template <typename F>
ALWAYS_INLINE inline four each(F f) {
    four made;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) made.of[i] = f(i);
    return made;
}
ALWAYS_INLINE inline four operator+(four x, four y) { return each([&](int i) { return x.of[i] + y.of[i]; }); }
ALWAYS_INLINE inline four operator-(four x, four y) { return each([&](int i) { return x.of[i] - y.of[i]; }); }
ALWAYS_INLINE inline four operator*(four x, four y) { return each([&](int i) { return x.of[i] * y.of[i]; }); }
ALWAYS_INLINE inline four operator/(four x, four y) { return each([&](int i) { return x.of[i] / y.of[i]; }); }
ALWAYS_INLINE inline four operator-(four x) { return each([&](int i) { return -x.of[i]; }); }
ALWAYS_INLINE inline four max(four x, four y) { return each([&](int i) { return max(x.of[i], y.of[i]); }); }
ALWAYS_INLINE inline four min(four x, four y) { return each([&](int i) { return min(x.of[i], y.of[i]); }); }
ALWAYS_INLINE inline four abs(four x) { return each([&](int i) { return abs(x.of[i]); }); }
ALWAYS_INLINE inline four where_negative(four x, four then, four otherwise) {
    return each([&](int i) { return where_negative(x.of[i], then.of[i], otherwise.of[i]); });
}

// The largest of the four, lane by lane.
ALWAYS_INLINE inline vec largest_of(four x) {
    return max(max(x.of[0], x.of[1]), max(x.of[2], x.of[3]));
}
inline vec largest_of(vec x) { return x; }

#if defined(__AVX512F__)
// 2^x for finite x, relative error below 2e-7; at most 2e-38 below float's range, at least 8e37 above it.
inline vec exp2(vec x) {
    asm("" : "+v"(x));  // a product stays one: fused multiply-adds would compute it twice, and adders idle
    // 2^x = 2^⌊n⌋ 2^(n-⌊n⌋) 2^r: n is x rounded to a multiple of 1/32, its fraction looks up a root
    const vec shifted = x + 393216.0f;  // 1.5 * 2^18: the last five bits are the fraction of n
    const vec n = shifted - 393216.0f, r = x - n;
    const __m512 low = _mm512_load_ps(roots.of), high = _mm512_load_ps(roots.of + 16);
    const vec root = (vec)_mm512_permutex2var_ps(low, (__m512i)shifted, high);
    const vec p = root * r * (r * 2.402287177e-01f + 6.931573416e-01f) + root;  // |r| <= 1/64: 2^r to 5.3e-8
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)n);
}
ALWAYS_INLINE inline four exp2(four x) { return each([&](int i) { return exp2(x.of[i]); }); }
#else
constexpr float TO_INTEGER = 12582912.0f;  // 1.5 * 2^23: the integer part of what is added lands in the low bits

inline vec exponent_of(vec shifted) { return (vec)((ivec)shifted << 23); }
inline vec with_exponent(vec x, vec exponent) { return (vec)((ivec)x + (ivec)exponent); }
ALWAYS_INLINE inline four exponent_of(four shifted) { return each([&](int i) { return exponent_of(shifted.of[i]); }); }
ALWAYS_INLINE inline four with_exponent(four x, four exponent) {
    return each([&](int i) { return with_exponent(x.of[i], exponent.of[i]); });
}

// 2^(n + r) where `shifted` is TO_INTEGER + n, |r| <= 1/2 and |n| <= 126: relative error below 2e-7.
template <typename V>
ALWAYS_INLINE inline V power(V shifted, V r) {
    V p = r * 1.326472721e-03f + 9.671512812e-03f;  // 2^r to 9.2e-8
    p = p * r + 5.550733745e-02f;
    p = p * r + 2.402224208e-01f;
    p = p * r + 6.931469776e-01f;
    p = p * r + 1.0f;
    return with_exponent(p, exponent_of(shifted));
}

// 2^x for finite x, as above.
template <typename V>
ALWAYS_INLINE inline V exp2(V x) {
    x = min(V{} + LARGEST_POWER, max(V{} - LARGEST_POWER, x));
    const V shifted = x + TO_INTEGER;
    return power(shifted, x - (shifted - TO_INTEGER));
}
#endif

// 2^(x y), the decay of a state. MODERATE: no |x y| is above LARGEST_POWER, so that nothing needs a limit, and without
// AVX-512 the product need not be formed: it disappears in two multiply-adds.
template <bool MODERATE, typename V>
ALWAYS_INLINE inline V exp2_of_product(V x, V y) {
#if !defined(__AVX512F__)
    if (MODERATE) {
        const V shifted = x * y + TO_INTEGER;
        return power(shifted, x * y - (shifted - TO_INTEGER));
    }
#endif
    return exp2(x * y);
}

constexpr float LOG2E = 1.442695041f;
constexpr float LN2 = 0.693147181f;

template <typename V>
ALWAYS_INLINE inline V exp(V x) {
    return exp2(x * LOG2E);
}
template <typename V>
ALWAYS_INLINE inline V sigmoid(V x) {
    return 1.0f / (1.0f + exp(-x));
}

// log(1 + e^x) with a small relative error on both sides, and its slope, the sigmoid.
template <typename V>
ALWAYS_INLINE inline void softplus(V x, V& value, V& slope) {
    const V e = exp(-abs(x));  // in (0, 1]
    const V inverse = 1.0f / ((2.0f + e) * (1.0f + e));  // one division for the two quotients
    const V s = e * (1.0f + e) * inverse;
    const V s2 = s * s;
    // log1p(e) = 2 atanh(s), s <= 1/3; relative error 4.5e-9
    V p = s2 * 1.400599651e-01f + 1.400090205e-01f;
    p = p * s2 + 2.001076365e-01f;
    p = p * s2 + 3.333320814e-01f;
    p = p * s2 + 1.0f;
    value = where_negative(x, V{}, x) + 2.0f * s * p;
    slope = where_negative(x, e, V{} + 1.0f) * (2.0f + e) * inverse;
}

// The sums over the lanes of NB vectors: `transpose_add` makes one vector of four as soon as they are there, so that few
// are alive at once, and `add_lane_sums` adds all NB sums to acc. The order of the additions is fixed.

// Not an intrinsic's store, which could alias anything: the compiler would reload every pointer in a hot loop.
typedef float unaligned_sums __attribute__((vector_size(NB * sizeof(float)), aligned(alignof(float))));

#if defined(__AVX512F__)
inline vec transpose_add(const vec (&p)[4]) {  // the lanes of each 128-bit part: the sums of the four in that part
    const __m512 a = (__m512)p[0], b = (__m512)p[1], c = (__m512)p[2], d = (__m512)p[3];
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    return (vec)_mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
}
inline void add_lane_sums(const vec (&folded)[NB / 4], float* acc) {
    const __m512 low = (__m512)folded[0], high = (__m512)folded[1];
    const __m512 halves =
        _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x44), _mm512_shuffle_f32x4(low, high, 0xee));
    const __m512 sums = _mm512_add_ps(halves, _mm512_shuffle_f32x4(halves, halves, 0xb1));  // parts 0 and 2
    const __m256 eight = _mm512_castps512_ps256(_mm512_shuffle_f32x4(sums, sums, 0x08));
    *reinterpret_cast<unaligned_sums*>(acc) += (unaligned_sums)eight;
}
#elif defined(__AVX2__)
inline vec transpose_add(const vec (&p)[4]) {  // as above; a blend runs where a shuffle cannot
    const __m256 a = (__m256)p[0], b = (__m256)p[1], c = (__m256)p[2], d = (__m256)p[3];
    const __m256 ab = _mm256_add_ps(_mm256_blend_ps(a, b, 0xcc), _mm256_shuffle_ps(a, b, 0x4e));
    const __m256 cd = _mm256_add_ps(_mm256_blend_ps(c, d, 0xcc), _mm256_shuffle_ps(c, d, 0x4e));
    return (vec)_mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x88), _mm256_shuffle_ps(ab, cd, 0xdd));
}
inline void add_lane_sums(const vec (&folded)[NB / 4], float* acc) {
    const __m256 parts = (__m256)folded[0];
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(parts), _mm256_extractf128_ps(parts, 1));
    *reinterpret_cast<unaligned_sums*>(acc) += (unaligned_sums)four;
}
#else
inline vec transpose_add(const vec (&p)[4]) {
    vec sums;
    for (int i = 0; i < 4; i++) sums[i] = (p[i][0] + p[i][2]) + (p[i][1] + p[i][3]);
    return sums;
}
inline void add_lane_sums(const vec (&folded)[NB / 4], float* acc) {
    *reinterpret_cast<unaligned_sums*>(acc) += (unaligned_sums)folded[0];
}
#endif

// `lanes` of W values from or to memory; the other lanes are 0 and are not touched.

typedef float unaligned_vec __attribute__((vector_size(W * sizeof(float)), aligned(alignof(float))));
typedef uint16_t unaligned_hvec __attribute__((vector_size(W * sizeof(uint16_t)), aligned(alignof(uint16_t))));

inline vec widen(hvec h) { return (vec)(__builtin_convertvector(h, uvec) << 16); }

inline hvec narrow(vec x) {  // round to nearest even
#if defined(__AVX512BF16__)
    return (hvec)_mm512_cvtneps_pbh((__m512)x);
#else
    const uvec bits = (uvec)x;
    const uvec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uvec quiet = (bits >> 16) | 0x40u;
    return __builtin_convertvector((uvec)(x != x ? (ivec)quiet : (ivec)rounded), hvec);
#endif
}

inline vec load(const float* p, int lanes) {
    if (lanes == W) return *reinterpret_cast<const unaligned_vec*>(p);
#if defined(__AVX512F__)
    return (vec)_mm512_maskz_loadu_ps(__mmask16((1u << lanes) - 1), p);
#else
    vec x{};
    for (int i = 0; i < lanes; i++) x[i] = p[i];
    return x;
#endif
}

inline void store(float* p, vec x, int lanes) {
    if (lanes == W) {
        *reinterpret_cast<unaligned_vec*>(p) = x;
        return;
    }
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, __mmask16((1u << lanes) - 1), (__m512)x);
#else
    for (int i = 0; i < lanes; i++) p[i] = x[i];
#endif
}

inline vec load(const bfloat16* from, int lanes) {
    const uint16_t* p = &from->bits;
    if (lanes == W) return widen(*reinterpret_cast<const unaligned_hvec*>(p));
#if defined(__AVX512F__)
    return widen((hvec)_mm256_maskz_loadu_epi16(__mmask16((1u << lanes) - 1), p));
#else
    hvec h{};
    for (int i = 0; i < lanes; i++) h[i] = p[i];
    return widen(h);
#endif
}

inline void store(bfloat16* to, vec x, int lanes) {
    uint16_t* p = &to->bits;
    const hvec h = narrow(x);
    if (lanes == W) {
        *reinterpret_cast<unaligned_hvec*>(p) = h;
        return;
    }
#if defined(__AVX512F__)
    _mm256_mask_storeu_epi16(p, __mmask16((1u << lanes) - 1), (__m256i)h);
#else
    for (int i = 0; i < lanes; i++) p[i] = h[i];
#endif
}

inline float scalar(float x) { return x; }
inline float scalar(bfloat16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}

// A vector in the kernel's own scratch.
inline vec get(const float* p) { return load(p, W); }
inline void put(float* p, vec x) { store(p, x, W); }
ALWAYS_INLINE inline four get_four(const float* p) { return each([&](int i) { return get(p + i * W); }); }

}  // namespace simd
