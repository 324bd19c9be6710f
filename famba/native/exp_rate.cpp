// How many exponentials per second the processor makes as the scan makes them and nothing else: the roof of the scan.

#include "simd.h"

using namespace simd;

// Runs on every thread; returns the exponentials of one thread. `sink` keeps the compiler from leaving the work out.
extern "C" int64_t exp_rate(int64_t rounds, int threads, float* sink) {
    const vec rate = splat(LOG2E);
    constexpr int STREAMS = 8;  // independent ones, to hide the latency of the polynomial
#pragma omp parallel num_threads(threads)
    {
        vec x[STREAMS], sum[STREAMS];
        for (int i = 0; i < STREAMS; i++) x[i] = splat(-1.0f - float(i)), sum[i] = vec{};
        for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 8
            for (int i = 0; i < STREAMS; i++) {
                sum[i] += exp2_of_product<true>(x[i], rate);
                x[i] *= 0.999999f;
            }
        for (int i = 1; i < STREAMS; i++) sum[0] += sum[i];
#pragma omp critical
        *sink += sum[0][0];
    }
    return rounds * STREAMS * W;
}
