// How many exponentials per second the processor computes as the scan does, and nothing else: the bound of the scan.

#include "simd.h"

using namespace simd;

// Runs on every thread; returns the exponentials of one thread. `sink` keeps the compiler from removing the work.
extern "C" int64_t exp_rate(int64_t rounds, int threads, float* sink) {
    constexpr int STATES = 16;
#pragma omp parallel num_threads(threads)
    {
        alignas(64) float rates[STATES * W];
        for (int i = 0; i < STATES * W; i++) rates[i] = -0.01f * float(i);
        vec delta = splat(0.1f), sum{};
        for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 4
            for (int n = 0; n < STATES; n += 4) {
                const four a = exp2_of_product<true>(four(delta), get_four(rates + n * W));
                sum += (a.of[0] + a.of[1]) + (a.of[2] + a.of[3]);
            }
            delta *= 0.999999f;
        }
#pragma omp critical
        *sink += sum[0];
    }
    return rounds * STATES * W;
}
